//go:build race

package timerwheel

const underRace = true
