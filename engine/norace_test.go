//go:build !race

package engine

const slack = 1
