//go:build race

package engine

// slack is how much more time is given under the race detector.
const slack = 4
