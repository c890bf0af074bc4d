//go:build !race

package dbasync

const raceEnabled = false
