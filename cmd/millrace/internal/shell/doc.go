// Package shell completes command lines in bash, zsh and fish, and writes a man page, from kong's
// model of the command line.
//
// The scripts in the folder scripts run the program itself to get the possible next words
// (Complete), so they match the flags of the installed program.
package shell
