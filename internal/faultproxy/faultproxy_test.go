package faultproxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"millrace/internal/faultproxy"
)

// Lines that are dropped vanish, wherever the pieces they come in end; the others
// pass in order, and what follows Heal passes too.
func TestDropLosesSingleMessages(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := faultproxy.New(t, ln.Addr().String())
	p.Messages(bufio.ScanLines)
	client, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	in := bufio.NewReader(client)
	send := func(text string) {
		t.Helper()
		if _, err := io.WriteString(server, text); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want string) {
		t.Helper()
		if got, err := in.ReadString('\n'); got != want || err != nil {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	p.Drop(func(m []byte) bool { return bytes.HasPrefix(m, []byte("news")) })
	const both = "news of the day\nanswer\n"
	for cut := range len(both) {
		before := fmt.Sprintf("before %d\n", cut)
		send(before + both[:cut])
		read(before) // and the piece that ends within the next message has come
		send(both[cut:])
		read("answer\n")
	}
	p.Heal()
	send("news again\n")
	read("news again\n")
}
