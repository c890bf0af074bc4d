package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"

	"millrace/codec"
	"millrace/engine"
)

// valueError reports an invalid value of a flag. It names the flag, the value and what is allowed.
type valueError struct {
	flag, value, want string
}

func (e *valueError) Error() string { return fmt.Sprintf("--%s %q: %s", e.flag, e.value, e.want) }

// decode takes a flag's value off the command line and reads it. A negative number is a value, not
// a flag.
func decode(ctx *kong.DecodeContext, read func(string) error) error {
	var s string
	if next, ok := ctx.Scan.Peek().Value.(string); ok && len(next) > 1 && next[0] == '-' && next[1] >= '0' && next[1] <= '9' {
		s = next
		ctx.Scan.Pop()
	} else if err := ctx.Scan.PopValueInto("value", &s); err != nil {
		return &valueError{ctx.Value.Name, "", "needs a value (one that starts with - is written --" + ctx.Value.Name + "=VALUE)"}
	}
	if err := read(s); err != nil {
		return &valueError{ctx.Value.Name, s, err.Error()}
	}
	return nil
}

// count is a whole number of 1 or more.
type count int

func (c *count) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return errors.New("must be a whole number, 1 or more")
		}
		*c = count(n)
		return nil
	})
}

// limit is a whole number; 0 or off means no limit.
type limit int

func (l limit) String() string { return offOr(l == 0, strconv.Itoa(int(l))) }

func (l *limit) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "off" {
			*l = 0
			return nil
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return errors.New("must be a whole number, or off")
		}
		*l = limit(n)
		return nil
	})
}

// engine converts l for engine.Config, where 0 would mean the default.
func (l limit) engine() int {
	if l == 0 {
		return engine.Off
	}
	return int(l)
}

// auto is a count, or 0 if the engine is to determine the value.
type auto int

func (a auto) String() string {
	if a == 0 {
		return "auto"
	}
	return strconv.Itoa(int(a))
}

func (a *auto) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "auto" {
			*a = 0
			return nil
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return errors.New("must be a whole number, 1 or more, or auto")
		}
		*a = auto(n)
		return nil
	})
}

// place is where clients reconnect to: HOST:PORT, a URL, or nothing.
type place string

func (p *place) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		*p = place(s)
		const want = "must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH"
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return errors.New(want)
		}
		if u, err := url.Parse(s); s == "" || err == nil && u.Host != "" && u.Scheme != "" {
			return nil
		}
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" || strings.Contains(s, "/") {
			return errors.New(want)
		}
		return nil
	})
}

// mode is file permissions in octal, or 0 for those that the umask leaves.
type mode fs.FileMode

func (m mode) String() string {
	if m == 0 {
		return "umask"
	}
	return fmt.Sprintf("%04o", uint32(m))
}

func (m *mode) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "umask" {
			*m = 0
			return nil
		}
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n == 0 || n > 0o777 {
			return errors.New("must be permissions in octal, such as 0660, or umask")
		}
		*m = mode(n)
		return nil
	})
}

// size is a number of bytes, 1 or more.
type size int

func (z size) String() string {
	n := int(z)
	for _, u := range []struct {
		name string
		n    int
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.n && n%u.n == 0 {
			return strconv.Itoa(n/u.n) + u.name
		}
	}
	return strconv.Itoa(n)
}

func (z *size) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		n, ok := parseSize(s)
		if !ok || n < 1 {
			return errors.New("must be bytes, 1 or more, such as 65536, 64KiB, 1MiB or 2GiB")
		}
		*z = size(n)
		return nil
	})
}

// buffer is a size in bytes; 0 or off leaves it to the system.
type buffer int

func (b buffer) String() string { return offOr(b == 0, size(b).String()) }

func (b *buffer) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		n, ok := parseSize(s)
		if s == "off" {
			n, ok = 0, true
		}
		if !ok {
			return errors.New("must be bytes such as 65536, 64KiB or 1MiB, or off for the system's own")
		}
		*b = buffer(n)
		return nil
	})
}

// parseSize reads bytes with an optional KiB, MiB or GiB.
func parseSize(s string) (int, bool) {
	unit := 1
	for name, n := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, name); ok {
			s, unit = strings.TrimSpace(rest), n
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/int64(unit) {
		return 0, false
	}
	return int(n) * unit, int64(int(n)*unit) == n*int64(unit)
}

func offOr(off bool, s string) string {
	if off {
		return "off"
	}
	return s
}

// hexBytes are bytes written in hexadecimal.
type hexBytes []byte

func (h hexBytes) String() string { return hex.EncodeToString(h) }

func (h *hexBytes) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		b, err := hex.DecodeString(s)
		if err != nil {
			return errors.New("must be bytes in hexadecimal, such as cafe01")
		}
		*h = b
		return nil
	})
}

// option is a value of one of the engine's enumerations, by name.
type option[T any, P interface {
	*T
	UnmarshalText([]byte) error
}] struct{ v T }

func (o option[T, P]) String() string { return fmt.Sprint(o.v) }

func (o *option[T, P]) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if err := P(&o.v).UnmarshalText([]byte(s)); err != nil {
			_, want, _ := strings.Cut(err.Error(), ": ")
			return errors.New(want)
		}
		return nil
	})
}

// Choices returns the names, for shell completion.
func (o *option[T, P]) Choices() (names []string) {
	for i := range 16 {
		var v T
		reflect.ValueOf(&v).Elem().SetUint(uint64(i)) // all enumerations are uint8
		if name := fmt.Sprint(v); P(&v).UnmarshalText([]byte(name)) == nil {
			names = append(names, name)
		}
	}
	return names
}

// handle is a flag value of the form MAIN/SUB.
type handle struct{ main, sub uint16 }

func (h handle) String() string { return fmt.Sprintf("%d/%d", h.main, h.sub) }

// key returns the handle as one number.
func (h handle) key() uint32 { return codec.Packet{Main: h.main, Sub: h.sub}.Handle() }

func parseHandle(s string) (handle, error) {
	m, b, ok := strings.Cut(s, "/")
	main, err1 := strconv.ParseUint(m, 10, 16)
	sub, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return handle{}, errors.New("must be MAIN/SUB, two numbers of 0 to 65535, such as 1/1")
	}
	return handle{uint16(main), uint16(sub)}, nil
}

// addrs are listen addresses; the engine checks them.
type addrs []string

func (a *addrs) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		*a = append(*a, strings.Split(s, "\n")...)
		return nil
	})
}

// twice returns an address that is given twice. Port 0 does not count: it means another port each
// time. With two sockets on one port the kernel would distribute connections between them.
func (a addrs) twice() (string, bool) {
	for i, s := range a {
		if !strings.HasSuffix(s, ":0") && slices.Contains(a[:i], s) {
			return s, true
		}
	}
	return "", false
}

// speaks reports whether one of the addresses has one of these protocols.
func (a addrs) speaks(protocols ...string) bool {
	return slices.ContainsFunc(a, func(s string) bool {
		scheme, _, _ := strings.Cut(s, "://")
		return slices.Contains(protocols, strings.TrimSuffix(scheme, "+unix"))
	})
}

// secure reports whether TLS is spoken at one of the addresses.
func (a addrs) secure() bool { return a.speaks("tls", "wss", "auto") }

// route sets where one handle runs: MAIN/SUB=MODE.
type route struct {
	handle handle
	mode   engine.Dispatch
}

func (r route) String() string { return r.handle.String() + "=" + r.mode.String() }

type routes []route

func (r *routes) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		for _, item := range strings.Split(s, "\n") {
			var one route
			h, mode, _ := strings.Cut(item, "=")
			var err error
			if one.handle, err = parseHandle(h); err == nil {
				err = one.mode.UnmarshalText([]byte(mode))
			}
			if err != nil {
				return errors.New("must be MAIN/SUB=MODE with a mode of adaptive, ordered or inline, such as 1/4=ordered")
			}
			*r = append(*r, one)
		}
		return nil
	})
}
