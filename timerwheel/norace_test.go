//go:build !race

package timerwheel

const underRace = false
