// Package migrate has the programs of docs/migrate: what other libraries' servers become. Each folder
// has theirs, ours, and a test that runs one client against both. It is a module of its own, so that
// nobody who uses the engine has to do with those libraries.
package migrate
