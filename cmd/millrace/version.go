package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version describes this program: its release, its commit and the commit's time, whether files were
// changed after it, the Go version, the target system, and other build settings that matter.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return describe(info)
}

func describe(info *debug.BuildInfo) string {
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	commit := "unknown commit"
	if c := set["vcs.revision"]; c != "" {
		commit = "commit " + c + " of " + set["vcs.time"]
		if set["vcs.modified"] == "true" {
			commit += ", changed"
		}
	}
	build := []string{info.GoVersion, cmp.Or(set["GOOS"], runtime.GOOS) + "/" + cmp.Or(set["GOARCH"], runtime.GOARCH)}
	if set["CGO_ENABLED"] == "0" {
		build = append(build, "static")
	}
	if set["-race"] == "true" {
		build = append(build, "race")
	}
	return fmt.Sprintf("%s (%s) %s", releaseOf(info), commit, strings.Join(build, " "))
}

// commitDate returns the day of the commit as 2006-01-02, or "" if unknown.
func commitDate() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			day, _, _ := strings.Cut(s.Value, "T")
			return day
		}
	}
	return ""
}

// release returns the version of this module that the program was built from.
func release() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return releaseOf(info)
}

func releaseOf(info *debug.BuildInfo) string {
	return cmp.Or(info.Main.Version, "(devel)")
}
