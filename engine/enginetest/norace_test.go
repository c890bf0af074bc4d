//go:build !race

package enginetest

// simSeeds is from how many seeds TestSim runs each scenario.
const simSeeds = 200

const underRace = false
