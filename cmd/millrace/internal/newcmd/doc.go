// Package newcmd is millrace new: it writes a program that is a server on this module.
//
// The program is made from the files in templates: main.go for every program, server.go for
// one on the engine alone, app.go and handlers.go for one on package services, and a file
// more for each of the parts db, cluster and web.
package newcmd
