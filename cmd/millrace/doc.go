// Millrace runs the reference server, and sends requests to servers by hand.
//
//	millrace serve --addr tcp://127.0.0.1:7000
//	millrace call 127.0.0.1:7000 1/1 hello
//	millrace top 127.0.0.1:7070
//
// serve prints one line, "ready" and its addresses, on stdout; its log goes to stderr. Every flag
// of serve is also an environment variable (--max-frame is MILLRACE_MAX_FRAME) and a key of the
// TOML file that --config names (max-frame). A flag overrides the environment, the environment the
// file, the file the default.
//
// The exit codes are in exit.go and in docs/exit-codes.md.
package main
