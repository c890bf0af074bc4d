//go:build race

package enginetest

// simSeeds is from how many seeds TestSim runs each scenario.
const simSeeds = 10

const underRace = true
