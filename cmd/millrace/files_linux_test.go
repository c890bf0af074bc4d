package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe that nobody writes to, a device or a directory in place of a file is one line and no endless wait;
// a pipe with settings is read.
func TestAFileThatIsNoneIsNotWaitedFor(t *testing.T) {
	pipe, dir := filepath.Join(t.TempDir(), "pipe"), t.TempDir()
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, with := range map[string][]string{
		"config": nil, "admin-token-file": {"--admin=127.0.0.1:0"}, "tls-cert": {"--tls-key=" + pipe, "--addr=tls://127.0.0.1:0"}, "tls-client-ca": {"--tls-self-signed", "--addr=tls://127.0.0.1:0"},
		"cluster-creds": {"--cluster=nats://127.0.0.1:1"}, "cluster-nkey": {"--cluster=nats://127.0.0.1:1"}, "cluster-tls-ca": {"--cluster=nats://127.0.0.1:1"},
	} {
		for _, name := range []string{pipe, dir} {
			t.Run(flag+" "+filepath.Base(name), func(t *testing.T) {
				t.Parallel()
				_, stderr, code := millrace(t, nil, "", append([]string{"serve", "--addr=tcp://127.0.0.1:0", "--" + flag + "=" + name}, with...)...)
				if code != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "--"+flag+` "`+name+`"`) {
					t.Errorf("exit code %d, stderr %q; want 64 and a line with --%s and %s", code, stderr, flag, name)
				}
			})
		}
	}
	full := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(full, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(full, []byte("loops = 3\n"), 0) }()
	stdout, stderr, code := millrace(t, nil, "", "serve", "--print-config", "--config="+full)
	if code != exitOK || !strings.Contains(stdout, "\nloops = 3\n") {
		t.Errorf("settings through a pipe: exit code %d, stderr %q", code, stderr)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// So is one that another command is given.
func TestOtherCommandsDoNotWaitForAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"top 127.0.0.1:1 --token-file PIPE", "admin --token-file PIPE 127.0.0.1:1 drain", "call tcp://127.0.0.1:1 1/1 @PIPE", "call tls://127.0.0.1:1 1/1 --tls-ca PIPE",
		"call tls://127.0.0.1:1 1/1 --tls-cert PIPE --tls-key PIPE", "replay PIPE --addr 127.0.0.1:1", "bench report PIPE", "bench compare PIPE",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			_, stderr, code := millrace(t, nil, "", strings.Fields(strings.ReplaceAll(args, "PIPE", pipe))...)
			if code == exitOK || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, pipe) || !strings.Contains(stderr, "it is not a regular file") {
				t.Errorf("exit code %d, stderr %q; want a line with the file", code, stderr)
			}
		})
	}
	for _, args := range []string{"top 127.0.0.1:1 --token-file /dev/zero", "call tcp://127.0.0.1:1 1/1 @/dev/zero", "bench report /dev/zero"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			_, stderr, code := millrace(t, nil, "", strings.Fields(args)...)
			if code == exitOK || !strings.Contains(stderr, "is it the right file?") {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
		})
	}
}

// A key of very many parts, for which the library takes minutes, is refused before.
func TestADeepKeyIsRefused(t *testing.T) {
	for _, part := range []string{"a", `"a"`, "'a' "} {
		name := file(t, strings.Repeat(part+".", 40_000)+part+" = 1\n")
		_, stderr, code := millrace(t, nil, "", "serve", "--print-config", "--config="+name)
		if code != exitUsage || stderr != `millrace: --config "`+name+"\": a key of more than 64 parts; is it the right file?\n" {
			t.Errorf("exit code %d, stderr %.200q", code, stderr)
		}
	}
}
