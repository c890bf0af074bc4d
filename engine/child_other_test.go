//go:build !linux

package engine

const childEnv = "MILLRACE_ENGINE_CHILD"

func runChild(string) {}
