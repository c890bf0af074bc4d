package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docs/licences.md is what go.mod requires, and nothing in it is forbidden.
func TestThePageIsCurrent(t *testing.T) {
	mods, err := modules("../..")
	if err != nil {
		t.Fatal(err)
	}
	want, err := page(mods)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/licences.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/licences.md is not what go.mod requires: make licences writes it anew")
	}
	if n := bytes.Count(got, []byte("| command |")); n < 10 {
		t.Errorf("%d modules are linked into the command, want 10 or more", n)
	}
}

// A licence that nobody knows or allows is an error that names the module.
func TestUnknownLicencesAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		text, use, want string // want is part of the error; "" for none
	}{
		"one of two":        {"Permission is hereby granted, free of charge, to any person obtaining a copy of this software\fGNU GENERAL PUBLIC LICENSE", inTests, "COPYING"},
		"MIT":               {"MIT License\n\nPermission is hereby granted, free of charge,\nto any person obtaining a copy of this software", inCommand, ""},
		"BSD, three":        {"Redistribution and use in source and binary forms\n * Neither the name of X", inCommand, ""},
		"two in one":        {"Apache License\nVersion 2.0\n\nNeither the name of", inPackages, ""},
		"copyleft in tests": {"Mozilla Public License Version 2.0", inTests, ""},
		"copyleft":          {"Mozilla Public License Version 2.0", inCommand, "MPL-2.0 is not allowed for command"},
		"GPL":               {"GNU GENERAL PUBLIC LICENSE Version 3", inTests, "no known licence"},
		"none":              {"", inTests, "no known licence"},
	} {
		dir := t.TempDir()
		if tc.text != "" {
			for i, text := range strings.Split(tc.text, "\f") {
				if err := os.WriteFile(filepath.Join(dir, []string{"LICENSE", "COPYING"}[i]), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		m := &module{Path: "example.org/m", Version: "v1.0.0", Dir: dir, use: tc.use}
		if err := m.read(); err != nil {
			t.Fatal(err)
		}
		_, err := page([]*module{m})
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "example.org/m")):
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}
