// Package newcmd implements millrace new: it generates a server program that uses this module.
//
// The program is generated from the files in templates: main.go for every program, server.go for
// one on the engine alone, app.go and handlers.go for one on package services, and one more file
// for each of the parts db, cluster and web.
package newcmd
