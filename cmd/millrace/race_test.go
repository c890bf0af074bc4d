//go:build race

package main

// raceFlag builds the servers under test the way that the tests are built.
const raceFlag = "-race"
