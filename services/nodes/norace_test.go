//go:build !race

package nodes_test

const underRace = false
