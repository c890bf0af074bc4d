package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionSaysCommitAndBuild(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	for _, tt := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"a release", debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
			setting("vcs.revision", "abc123"), setting("vcs.time", "2026-01-02T03:04:05Z"), setting("vcs.modified", "false"),
			setting("CGO_ENABLED", "0"), setting("GOOS", "linux"), setting("GOARCH", "arm64")}},
			"v1.2.3 (commit abc123 of 2026-01-02T03:04:05Z) go1.26.8 linux/arm64 static"},
		{"changed files", debug.BuildInfo{GoVersion: "go1.26.8", Settings: []debug.BuildSetting{
			setting("vcs.revision", "abc123"), setting("vcs.time", "2026-01-02T03:04:05Z"), setting("vcs.modified", "true"), setting("-race", "true"),
			setting("CGO_ENABLED", "1"), setting("GOOS", "linux"), setting("GOARCH", "amd64")}},
			"(devel) (commit abc123 of 2026-01-02T03:04:05Z, changed) go1.26.8 linux/amd64 race"},
		{"no commit", debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			setting("GOOS", "darwin"), setting("GOARCH", "arm64")}}, "(devel) (unknown commit) go1.26.8 darwin/arm64"},
	} {
		if got := describe(&tt.info); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	out, _, _ := millrace(t, nil, "", "version")
	if !strings.HasPrefix(out, "millrace ") || !strings.Contains(out, "commit") || !strings.Contains(out, " go1.") {
		t.Errorf("it says %q", out)
	}
}
