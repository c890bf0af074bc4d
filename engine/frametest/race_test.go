//go:build race

package frametest

func init() { raced = true }
