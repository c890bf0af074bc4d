//go:build race

package servicestest_test

// seeds is from how many seeds the town is run.
const seeds = 10
