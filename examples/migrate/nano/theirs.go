// Package nano has a room on nano, and the same on Millrace.
package nano

import (
	"github.com/lonng/nano"
	"github.com/lonng/nano/component"
	"github.com/lonng/nano/session"
)

type Room struct {
	component.Base
	group *nano.Group
}

type Line struct {
	Text string `json:"text"`
}

func (r *Room) Join(s *session.Session, _ []byte) error {
	if err := r.group.Add(s); err != nil {
		return err
	}
	return s.Response(&Line{Text: "welcome"})
}

func (r *Room) Say(_ *session.Session, line *Line) error {
	return r.group.Broadcast("line", line)
}
