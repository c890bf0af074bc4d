package main

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/mask"
)

// groups are the headings of serve's --help.
var groups = []kong.Group{
	{Key: "net", Title: "Listening", Description: "Every flag is also a variable (--max-frame is MILLRACE_MAX_FRAME) and a key of the file (max-frame).\nSizes are bytes, or take KiB, MiB, GiB. Durations are Go's: 1500ms, 10s, 2m."},
	{Key: "doors", Title: "TLS, WebSocket, PROXY protocol"},
	{Key: "run", Title: "Where handlers run"},
	{Key: "limits", Title: "Limits"},
	{Key: "load", Title: "Too much work, and whose it is"},
	{Key: "times", Title: "Timeouts (0 or off turns one off)"},
	{Key: "socket", Title: "Sockets and loops"},
	{Key: "frame", Title: "The frame"},
	{Key: "backends", Title: "Timers, the database, the cache"},
	{Key: "admin", Title: "The operator's door"},
	{Key: "record", Title: "What is noted of sessions"},
	{Key: "rest", Title: "The rest"},
}

type (
	dispatchOption = option[engine.Dispatch, *engine.Dispatch]
	acceptOption   = option[engine.AcceptMode, *engine.AcceptMode]
	recorderOption = option[engine.Recorder, *engine.Recorder]
	balanceOption  = option[engine.Balance, *engine.Balance]
)

// frameFlags describe the frame, for a server and a client alike.
type frameFlags struct {
	Framing      string   `group:"frame" default:"length" placeholder:"FORM" help:"How frames are told apart: length, varint (protobuf's varint32 in front of Main and Sub), or without handles line, delimiter=HEX or fixed=N, where each frame is echoed (${default})."`
	ByteOrder    string   `group:"frame" enum:"big,little" default:"big" help:"Byte order of every integer: big or little (${default})."`
	LengthWidth  count    `group:"frame" default:"4" placeholder:"N" help:"Bytes of the length field: 2 or 4 (${default})."`
	LengthAdjust int      `group:"frame" default:"0" placeholder:"N" help:"Added to the length field it gives the bytes behind it; -4 where a length of 4 bytes counts itself (${default})."`
	Prefix       hexBytes `group:"frame" placeholder:"HEX" help:"Magic bytes in front of the length, in hexadecimal, up to 32 (none)."`
	Command      string   `group:"frame" enum:"main-sub-16,main-sub-8,handle-32" default:"main-sub-16" help:"Main and Sub as two u16, two u8, or one u32: main-sub-16, main-sub-8 or handle-32 (${default})."`
	Seq          bool     `group:"frame" help:"A u32 sequence number follows Sub; answers repeat it (false)."`
}

var commandForms = map[string]codec.Command{
	"main-sub-16": codec.MainSub16, "main-sub-8": codec.MainSub8, "handle-32": codec.Handle32,
}

// framer is what --framing says; nil for a layout. maxFrame is in bytes; 0: the default.
func (f *frameFlags) framer(maxFrame int, src *sources) (codec.Framer, error) {
	fr, err := codec.ParseFramer(f.Framing, maxFrame)
	if err != nil {
		return nil, exitf(exitUsage, "--framing %s: %s%s", f.Framing, strings.TrimPrefix(trim(err), fmt.Sprintf("framing %q: ", f.Framing)), src.from("framing"))
	}
	return fr, nil
}

func (f *frameFlags) layout() codec.Layout {
	return codec.Layout{
		Prefix: f.Prefix, LengthWidth: int(f.LengthWidth), LengthAdjust: f.LengthAdjust,
		Command: commandForms[f.Command], Seq: f.Seq, LittleEndian: f.ByteOrder == "little",
	}
}

// engineFlags are the engine's Config, field by field.
type engineFlags struct {
	Addr    addrs         `group:"net" default:"tcp://127.0.0.1:7000" placeholder:"ADDR" help:"Listen there: tcp://HOST:PORT (tcp4://, tcp6://), port 0 for a free one, or unix:///PATH; tls://HOST:PORT, ws://HOST:PORT[/PATH], wss://, or auto:// where the first byte says which; +unix behind these four is for a socket's path. Repeatable (${default})."`
	Accept  acceptOption  `group:"net" default:"reuseport" placeholder:"MODE" help:"Who accepts TCP: reuseport (each loop its own socket; Linux) or single (${default})."`
	Balance balanceOption `group:"net" default:"round-robin" placeholder:"MODE" help:"How --accept=single picks a loop: round-robin, least-connections or source-hash (${default})."`

	Loops          count          `group:"run" default:"${cpus}" placeholder:"N" help:"Event loops (one per CPU that this process may use: ${default})."`
	Workers        count          `group:"run" default:"${workers}" placeholder:"N" help:"Workers that run handlers (two per CPU that this process may use: ${default})."`
	SpareWorkers   limit          `group:"run" default:"256" placeholder:"N" help:"Most additional workers while all are blocked in handlers; off for none (${default})."`
	StallAfter     timeout        `group:"run" default:"100ms" placeholder:"D" help:"Log a handler that holds its worker up for longer, with its stack; off for none (${default})."`
	Dispatch       dispatchOption `group:"run" default:"adaptive" placeholder:"MODE" help:"Where packets run: adaptive (quick handles on their loop), ordered (workers) or inline (loops) (${default})."`
	HandleDispatch routes         `group:"run" placeholder:"MAIN/SUB=MODE" help:"The same for one handle. Repeatable."`

	MaxFrame      size  `group:"limits" default:"64KiB" placeholder:"BYTES" help:"Largest length of a frame: all behind the length field (${default})."`
	MaxConns      auto  `group:"limits" default:"auto" placeholder:"N" help:"Connections (${default}: 10000, or what the open-file limit holds if that is less)."`
	MaxConnsPerIP limit `group:"limits" name:"max-conns-per-ip" default:"off" placeholder:"N" help:"Connections from one address (${default})."`
	IPv6Prefix    count `group:"limits" name:"ipv6-prefix" default:"64" placeholder:"BITS" help:"Bits of an IPv6 address that count in --max-conns-per-ip, --accept-rate-per-ip and --handshake-rate: a network counts as one address (${default})."`
	MaxRefused    count `group:"limits" default:"32" placeholder:"N" help:"Refused connections kept open, at most for --linger, so that the ERROR reaches a client that sends meanwhile; each needs an open file (${default})."`
	MaxOutbound   size  `group:"limits" default:"1MiB" placeholder:"BYTES" help:"Bytes that one session may leave unread: past it reading pauses, and a consumer of what it has not asked for is closed (${default})."`
	MaxPending    size  `group:"limits" default:"1MiB" placeholder:"BYTES" help:"Bytes of requests that wait for one session's handler: past it reading pauses (${default})."`
	MemoryBudget  size  `group:"limits" default:"256MiB" placeholder:"BYTES" help:"Bytes that wait in all sessions, in and out: past it the largest are paused first; past it for 10 s, slow consumers are closed, whatever --max-outbound says (${default})."`
	MaxOutbox     size  `group:"limits" default:"16MiB" placeholder:"BYTES" help:"Bytes of broadcasts and group sends that wait in one loop (${default})."`
	MaxQueue      count `group:"limits" default:"8192" placeholder:"N" help:"Functions that wait for a worker (${default})."`
	MaxTasks      count `group:"limits" default:"1024" placeholder:"N" help:"Functions that wait for one session's turn (${default})."`
	MaxGroups     count `group:"limits" default:"64" placeholder:"N" help:"Groups that one session may be in (${default})."`

	ResumeBytes size `group:"limits" default:"256KiB" placeholder:"BYTES" help:"With --resume: bytes kept of one session that its client has not acknowledged; no more is sent until it has (${default})."`

	WaitBudget      timeout     `group:"load" default:"off" placeholder:"D" help:"Answer requests with ERROR 4 that have waited longer for a worker, while all do (${default})."`
	HandleWait      handleWaits `group:"load" placeholder:"MAIN/SUB=D" help:"The same for one handle; off: however long they have waited, they are handled. Repeatable."`
	AcceptRate      limit       `group:"load" default:"off" placeholder:"N" help:"New connections in a second (${default})."`
	AcceptRatePerIP limit       `group:"load" name:"accept-rate-per-ip" default:"off" placeholder:"N" help:"New connections from one address in a second (${default})."`
	FrameRate       limit       `group:"load" default:"off" placeholder:"N" help:"Frames read from one session in a second: past it reading pauses (${default})."`
	ByteRate        perSecond   `group:"load" default:"off" placeholder:"BYTES" help:"Bytes read from one session in a second: past it reading pauses (${default})."`
	SessionCPU      timeout     `group:"load" name:"session-cpu" default:"off" placeholder:"D" help:"Time that one session's handlers, and writes to it, take in a second: past it reading pauses (${default})."`
	Costs           bool        `group:"load" help:"Keep account of the time that each session, tag and handle takes, for --admin and top (false)."`

	FirstFrameTimeout timeout `group:"times" default:"10s" placeholder:"D" help:"From accept to the first whole frame; off for clients that only listen (${default})."`
	FrameTimeout      timeout `group:"times" default:"10s" placeholder:"D" help:"From the first to the last byte of a frame (${default})."`
	IdleTimeout       timeout `group:"times" default:"off" placeholder:"D" help:"Without a whole frame (${default})."`
	Heartbeat         timeout `group:"times" default:"off" placeholder:"D" help:"PING a session that has been silent for so long (${default})."`
	Linger            period  `group:"times" default:"2s" placeholder:"D" help:"To send what is unsent at close and to wait for the peer's FIN (${default})."`
	FinTimeout        period  `group:"times" default:"5m" placeholder:"D" help:"From the peer's FIN until what is owed must be done (${default})."`

	Resume timeout `group:"times" default:"off" placeholder:"D" help:"Keep a session so long whose connection breaks, for a client that began with a HELLO frame to come back; off for none (${default})."`

	DrainRate auto   `group:"times" default:"auto" placeholder:"N" help:"Sessions told GOAWAY in a second of a drain (${default}: 200, or as many as it takes to tell all in a quarter of --drain-timeout)."`
	DrainTo   string `group:"times" placeholder:"ADDR" help:"Where GOAWAY sends the clients: HOST:PORT, or a URL such as ws://HOST:PORT/PATH; up to 256 bytes (none)."`

	Recorder     recorderOption `group:"record" default:"off" placeholder:"MODE" help:"Note the last events of each session, in 512 bytes for each: off, errors (keep those of sessions that end badly or stall, and log them) or on (keep those of all that end) (${default})."`
	RecorderKeep count          `group:"record" default:"64" placeholder:"N" help:"How many are kept of these, of stalls, and of limits that came near (${default})."`

	SystemFrames     bool    `group:"socket" default:"true" help:"PING, ERROR and GOAWAY on Main 0; --system-frames=false for clients that know nothing of them (${default})."`
	ReadBuffer       size    `group:"socket" default:"64KiB" placeholder:"BYTES" help:"Most that one read takes, per loop (${default})."`
	SocketRecvBuffer buffer  `group:"socket" default:"off" placeholder:"BYTES" help:"SO_RCVBUF; off for the system's (${default})."`
	SocketSendBuffer buffer  `group:"socket" default:"off" placeholder:"BYTES" help:"SO_SNDBUF; off for the system's (${default})."`
	NoDelay          bool    `group:"socket" default:"true" help:"TCP_NODELAY; --no-delay=false leaves Nagle's algorithm on (${default})."`
	KeepAlive        timeout `group:"socket" default:"30s" placeholder:"D" help:"Silence before the first TCP keep-alive probe; off for none (${default})."`
	KeepAliveEvery   period  `group:"socket" default:"10s" placeholder:"D" help:"Between two probes (${default})."`
	KeepAliveCount   count   `group:"socket" default:"3" placeholder:"N" help:"Unanswered probes before the connection is dead (${default})."`
	UserTimeout      timeout `group:"socket" default:"15s" placeholder:"D" help:"Sent to again and again, and not one acknowledgement for so long: the connection is dead; off for the system's limit (${default})."`
	UnixMode         mode    `group:"socket" default:"umask" placeholder:"OCTAL" help:"Permissions of unix sockets, such as 0660; umask for what that leaves (${default})."`
	DrainBudget      count   `group:"socket" default:"256" placeholder:"N" help:"Sessions written to in one turn of a loop (${default})."`
}

// config is the engine's Config that the flags say. handles says where the server's
// own blocking handlers must run; --handle-dispatch has the last word.
func (f *engineFlags) config(frame *frameFlags, framer codec.Framer, handles map[uint32]engine.Dispatch, logger *slog.Logger) engine.Config {
	modes := map[uint32]engine.Dispatch{}
	maps.Copy(modes, handles)
	for _, r := range f.HandleDispatch {
		modes[r.handle.key()] = r.mode
	}
	return engine.Config{
		Addrs: f.Addr, Layout: frame.layout(), Framer: framer, MaxFrame: f.maxFrame(),
		Loops: int(f.Loops), Dispatch: f.Dispatch.v, Accept: f.Accept.v, Balance: f.Balance.v, Handles: modes,
		Workers: int(f.Workers), SpareWorkers: f.SpareWorkers.engine(), MaxQueue: int(f.MaxQueue), StallAfter: f.StallAfter.engine(),
		Recorder: f.Recorder.v, RecorderKeep: int(f.RecorderKeep),
		NoSystemFrames: !f.SystemFrames, Heartbeat: time.Duration(f.Heartbeat),
		Limits: engine.Limits{
			MaxConns: int(f.MaxConns), MaxConnsPerIP: int(f.MaxConnsPerIP), IPv6Prefix: int(f.IPv6Prefix), MaxRefused: int(f.MaxRefused), MaxOutbound: int(f.MaxOutbound), MaxPending: int(f.MaxPending),
			MaxTasks: int(f.MaxTasks), MaxOutbox: int(f.MaxOutbox), MemoryBudget: int(f.MemoryBudget), MaxGroups: int(f.MaxGroups), ResumeBytes: int(f.ResumeBytes),
		},
		Timeouts: engine.Timeouts{
			FirstFrameTimeout: f.FirstFrameTimeout.engine(), FrameTimeout: f.FrameTimeout.engine(), IdleTimeout: time.Duration(f.IdleTimeout),
			FinTimeout: time.Duration(f.FinTimeout), Linger: time.Duration(f.Linger), Resume: time.Duration(f.Resume),
		},
		Overload: engine.Overload{
			WaitBudget: time.Duration(f.WaitBudget), HandleWaits: f.HandleWait.engine(), AcceptRate: int(f.AcceptRate), AcceptRatePerIP: int(f.AcceptRatePerIP),
			FrameRate: int(f.FrameRate), ByteRate: int(f.ByteRate), SessionCPU: time.Duration(f.SessionCPU), Costs: f.Costs,
		},
		Socket: engine.Socket{
			ReadBuffer: int(f.ReadBuffer), SocketRecvBuffer: int(f.SocketRecvBuffer), SocketSendBuffer: int(f.SocketSendBuffer), Delay: !f.NoDelay,
			KeepAlive: f.KeepAlive.engine(), KeepAliveEvery: time.Duration(f.KeepAliveEvery), KeepAliveCount: int(f.KeepAliveCount), UserTimeout: f.UserTimeout.engine(),
			UnixMode: fs.FileMode(f.UnixMode),
		},
		DrainBudget: int(f.DrainBudget), DrainRate: int(f.DrainRate), DrainTo: f.DrainTo,
		Logger: logger,
	}
}

// maxFrame leaves the default to the engine, which fits it to a narrow length field.
func (f *engineFlags) maxFrame() int {
	if f.MaxFrame == codec.DefaultMaxFrame {
		return 0
	}
	return int(f.MaxFrame)
}

// flagOf is the flag that sets a field of the engine's Config or of codec.Layout.
func flagOf(field string) string {
	switch field {
	case "Addrs":
		return "addr"
	case "Framer":
		return "framing"
	case "Handles":
		return "handle-dispatch"
	case "HandleWaits":
		return "handle-wait"
	case "MaxConnsPerIP":
		return "max-conns-per-ip"
	case "IPv6Prefix":
		return "ipv6-prefix"
	case "AcceptRatePerIP":
		return "accept-rate-per-ip"
	case "SessionCPU":
		return "session-cpu"
	case "NoSystemFrames":
		return "system-frames"
	case "Delay":
		return "no-delay"
	case "TLS":
		return "tls-cert"
	case "ProxyFrom":
		return "proxy-protocol"
	case "ForwardedFrom":
		return "forwarded-for"
	case "Origins":
		return "ws-origin"
	case "Deflate":
		return "ws-compress"
	case "MaxRatio":
		return "ws-ratio"
	case "LittleEndian":
		return "byte-order"
	default:
		return kebab(field)
	}
}

// kebab writes MaxFrame as max-frame.
func kebab(s string) string {
	var out []byte
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			if c += 'a' - 'A'; i > 0 {
				out = append(out, '-')
			}
		}
		out = append(out, c)
	}
	return string(out)
}

// newLogger makes serve's log. What looks like a secret is masked in every attribute. The
// level may be changed.
func newLogger(w io.Writer, format, level string) (*slog.Logger, *slog.LevelVar) {
	at := new(slog.LevelVar)
	if err := at.UnmarshalText([]byte(level)); err != nil {
		panic("millrace: log level " + level) // kong has checked it
	}
	opts := &slog.HandlerOptions{Level: at, ReplaceAttr: maskAttr}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), at
	}
	return slog.New(slog.NewTextHandler(w, opts)), at
}

func maskAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(mask.Text(v))
	case error:
		a.Value = slog.StringValue(mask.Text(v.Error()))
	}
	return a
}
