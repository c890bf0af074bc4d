package main

import (
	"strings"
	"testing"
)

// Text is sent without escapes: <, > and & stay one byte each.
func TestGroupSendKeepsMarkup(t *testing.T) {
	s := serve(t)
	c := s.dial()
	c.object(1, 5, `{"group":"<g>"}`)
	data := strings.Repeat(`<&>`, 20000)
	c.send(1, 7, `{"group":"<g>","data":"`+data+`"}`)
	for range 2 {
		f := c.recv()
		if f.main != 1 || f.sub != 7 && f.sub != 8 {
			t.Fatalf("got %v", f)
		}
		if f.sub == 8 && (c.parse(f)["data"] != data || len(f.body) > len(data)+200) {
			t.Errorf("%d bytes of text in a body of %d", len(data), len(f.body))
		}
	}
}
