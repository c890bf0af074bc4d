//go:build !race

package services_test

const underRace = false
