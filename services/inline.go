package services

import (
	"fmt"
	"strings"

	"millrace/codec"
)

// Inline calls the service at handle from a stage of another service: its Pre, Handle and Last run
// on the caller's goroutine, without encoding and without middleware.
//
// Errors: what a stage returned (Stop included); ErrUnknownHandle; ErrTypes; ErrDeferred; ErrDepth,
// with the chain of handles, when calls are nested more deeply than ControllerConfig.MaxDepth.
func Inline[Req, Res any](ctx *Context, handle uint32, req Req) (Res, error) {
	var none Res
	sv := ctx.c.lookup(handle)
	if sv == nil {
		return none, fmt.Errorf("%w: %s", ErrUnknownHandle, handleText(handle))
	}
	r, ok := sv.(*registered[Req, Res])
	if !ok {
		return none, fmt.Errorf("%w: %s", ErrTypes, handleText(handle))
	}
	if ctx.depth >= ctx.c.cfg.MaxDepth {
		return none, fmt.Errorf("%w: %s", ErrDepth, chain(ctx, handle))
	}
	k := r.calls.Get().(*call[Req, Res])
	k.req, k.next = req, atPre
	k.ctx.inline(ctx, &r.info)
	err := k.inline()
	if err == Answer {
		err = nil
	}
	if k.ctx.reply != nil {
		err = fmt.Errorf("%w: %s", ErrDeferred, handleText(handle))
	}
	k.ctx.endTrace(err)
	res := k.res
	if err != nil {
		res = none
	}
	r.put(k)
	return res, err
}

func (k *call[Req, Res]) inline() error {
	if k.r.c.cfg.Tracer == nil {
		return k.steps()
	}
	return k.tracedInline() // a separate function, as captured variables are allocated
}

func (k *call[Req, Res]) tracedInline() (err error) {
	k.ctx.traced(TraceCall, func() { err = k.steps() })
	return err
}

// inline initializes ctx for a call from parent.
func (ctx *Context) inline(parent *Context, i *info) {
	ctx.c, ctx.s, ctx.home, ctx.info, ctx.parent = parent.c, parent.s, parent.home, i, parent
	ctx.packet = codec.Packet{Main: uint16(i.handle >> 16), Sub: uint16(i.handle), Seq: parent.packet.Seq}
	ctx.depth = parent.depth + 1
	ctx.deadline = parent.deadline
	ctx.reset()
	ctx.late, ctx.delayed, ctx.key, ctx.ended = parent.late, parent.delayed, parent.key, nil
}

// chain lists the calls that led to handle, and marks a cycle.
func chain(ctx *Context, handle uint32) string {
	names := []string{handleText(handle)}
	circle := 0
	for c := ctx; c != nil; c = c.parent {
		if circle == 0 && c.info.handle == handle {
			circle = len(names)
		}
		names = append(names, handleText(c.info.handle))
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	text := strings.Join(names, " > ")
	if circle > 0 {
		text += fmt.Sprintf(" (a cycle of %d)", circle)
	}
	return text
}
