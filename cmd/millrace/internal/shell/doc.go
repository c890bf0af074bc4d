// Package shell makes a command line easy to use: it completes its words in bash, zsh and
// fish, and writes its man page, from kong's model of it.
//
// The scripts in the folder scripts ask the program itself for the words that may come next
// (Complete), so they know the flags of the program that is installed.
package shell
