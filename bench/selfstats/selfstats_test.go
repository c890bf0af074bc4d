//go:build unix

package selfstats

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"syscall"
	"testing"
)

func TestServeAnswersAndUnsetsItsVariable(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(pair[0]), "ours")
	defer ours.Close()
	t.Setenv(variable, strconv.Itoa(pair[1]))
	Serve()
	if os.Getenv(variable) != "" {
		t.Error("the variable would reach children of the server")
	}
	lines := bufio.NewReader(ours)
	for range 3 {
		if _, err := ours.Write([]byte{'?'}); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var got figures
		if err := json.Unmarshal(line, &got); err != nil || got.Goroutines < 2 || got.Mallocs == 0 || got.HeapBytes == 0 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestServeIsQuietOutsideTheSuite(t *testing.T) {
	for _, v := range []string{"", "x", "-1", "2", "99999"} {
		t.Setenv(variable, v)
		Serve() // must neither panic nor touch a descriptor that it was not given
	}
}
