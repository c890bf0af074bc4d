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
	{Key: "net", Title: "Listening", Description: "Every flag is also an environment variable (--max-frame is MILLRACE_MAX_FRAME) and a key of the config file (max-frame).\nSizes are bytes, or take KiB, MiB, GiB. Durations are Go's: 1500ms, 10s, 2m."},
	{Key: "doors", Title: "TLS, WebSocket, PROXY protocol"},
	{Key: "run", Title: "Where handlers run"},
	{Key: "limits", Title: "Limits"},
	{Key: "load", Title: "Overload and fairness"},
	{Key: "times", Title: "Timeouts (0 or off turns one off)"},
	{Key: "socket", Title: "Sockets and loops"},
	{Key: "frame", Title: "The frame"},
	{Key: "backends", Title: "Timers, the database, the cache"},
	{Key: "admin", Title: "The operator's door"},
	{Key: "record", Title: "Recording"},
	{Key: "rest", Title: "The rest"},
}

type (
	dispatchOption = option[engine.Dispatch, *engine.Dispatch]
	acceptOption   = option[engine.AcceptMode, *engine.AcceptMode]
	recorderOption = option[engine.Recorder, *engine.Recorder]
	balanceOption  = option[engine.Balance, *engine.Balance]
)

// frameFlags describe the frame format, for servers and clients.
type frameFlags struct {
	Framing      string   `group:"frame" default:"length" placeholder:"FORM" help:"How frames are delimited: length, varint (a protobuf varint32 length before Main and Sub), or, without handles, line, delimiter=HEX or fixed=N, where each frame is echoed (${default})."`
	ByteOrder    string   `group:"frame" enum:"big,little" default:"big" help:"Byte order of every integer: big or little (${default})."`
	LengthWidth  count    `group:"frame" default:"4" placeholder:"N" help:"Bytes of the length field: 2 or 4 (${default})."`
	LengthAdjust int      `group:"frame" default:"0" placeholder:"N" help:"Length field + N = number of bytes after the length field; -4 if a 4-byte length includes itself (${default})."`
	Prefix       hexBytes `group:"frame" placeholder:"HEX" help:"Magic bytes before the length, in hexadecimal, up to 32 (none)."`
	Command      string   `group:"frame" enum:"main-sub-16,main-sub-8,handle-32" default:"main-sub-16" help:"Main and Sub as two u16, two u8, or one u32: main-sub-16, main-sub-8 or handle-32 (${default})."`
	Seq          bool     `group:"frame" help:"A u32 sequence number follows Sub; answers repeat it (false)."`
}

var commandForms = map[string]codec.Command{
	"main-sub-16": codec.MainSub16, "main-sub-8": codec.MainSub8, "handle-32": codec.Handle32,
}

// framer returns the framer of --framing, nil for a layout. maxFrame is in bytes; 0 for the
// default.
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

// engineFlags are the fields of engine.Config.
type engineFlags struct {
	Addr    addrs         `group:"net" default:"tcp://127.0.0.1:7000" placeholder:"ADDR" help:"Address to listen on: tcp://HOST:PORT (tcp4://, tcp6://), port 0 for a free one, or unix:///PATH; tls://HOST:PORT, ws://HOST:PORT[/PATH], wss://, or auto:// which detects the protocol by the first byte; these four with +unix for a unix socket. Repeatable (${default})."`
	Accept  acceptOption  `group:"net" default:"reuseport" placeholder:"MODE" help:"How TCP connections are accepted: reuseport (each loop has its own socket; Linux) or single (${default})."`
	Balance balanceOption `group:"net" default:"round-robin" placeholder:"MODE" help:"How --accept=single picks a loop: round-robin, least-connections or source-hash (${default})."`

	Loops          count          `group:"run" default:"${cpus}" placeholder:"N" help:"Number of event loops (one per CPU that this process may use: ${default})."`
	Workers        count          `group:"run" default:"${workers}" placeholder:"N" help:"Number of workers that run handlers (two per CPU that this process may use: ${default})."`
	SpareWorkers   limit          `group:"run" default:"256" placeholder:"N" help:"Limit of additional workers, started while all are blocked in handlers; off for none (${default})."`
	StallAfter     timeout        `group:"run" default:"100ms" placeholder:"D" help:"Log a handler that runs for longer, with its stack; one that was declared to block (an ordered handle) may take 50 times as long; off for none (${default})."`
	Dispatch       dispatchOption `group:"run" default:"adaptive" placeholder:"MODE" help:"Where packets run: adaptive (quick handles on their loop), ordered (workers) or inline (loops) (${default})."`
	HandleDispatch routes         `group:"run" placeholder:"MAIN/SUB=MODE" help:"The same for one handle. Repeatable."`

	MaxFrame      size  `group:"limits" default:"64KiB" placeholder:"BYTES" help:"Limit of a frame's length, without the length field (${default})."`
	MaxConns      auto  `group:"limits" default:"auto" placeholder:"N" help:"Limit of connections (${default}: 10000, or as many as the open-file limit allows if that is less)."`
	MaxConnsPerIP limit `group:"limits" name:"max-conns-per-ip" default:"off" placeholder:"N" help:"Limit of connections from one address (${default})."`
	IPv6Prefix    count `group:"limits" name:"ipv6-prefix" default:"64" placeholder:"BITS" help:"Prefix length of IPv6 addresses for --max-conns-per-ip, --accept-rate-per-ip and --handshake-rate: a network counts as one address (${default})."`
	MaxRefused    count `group:"limits" default:"32" placeholder:"N" help:"Limit of refused connections kept open, for up to --linger, so that the ERROR reaches a client that is still sending; each needs an open file (${default})."`
	MaxOutbound   size  `group:"limits" default:"1MiB" placeholder:"BYTES" help:"Limit of bytes that a session's client may leave unread: above it reading pauses, and for unsolicited messages the client is closed (${default})."`
	MaxPending    size  `group:"limits" default:"1MiB" placeholder:"BYTES" help:"Limit of bytes of requests waiting for one session's handler: above it reading pauses (${default})."`
	MemoryBudget  size  `group:"limits" default:"256MiB" placeholder:"BYTES" help:"Limit of bytes held for all sessions, in and out: above it reading pauses, for the largest sessions first; after 10 s above it slow consumers are closed, even below --max-outbound (${default})."`
	MaxOutbox     size  `group:"limits" default:"16MiB" placeholder:"BYTES" help:"Limit of bytes of broadcasts and group sends waiting in one loop (${default})."`
	MaxQueue      count `group:"limits" default:"8192" placeholder:"N" help:"Limit of functions waiting for a worker (${default})."`
	MaxTasks      count `group:"limits" default:"1024" placeholder:"N" help:"Limit of functions waiting in one session (${default})."`
	MaxGroups     count `group:"limits" default:"64" placeholder:"N" help:"Limit of groups that one session may be in (${default})."`

	ResumeBytes size `group:"limits" default:"256KiB" placeholder:"BYTES" help:"With --resume: limit of bytes kept for one session until its client acknowledges them; at the limit no more are sent (${default})."`

	WaitBudget      timeout     `group:"load" default:"off" placeholder:"D" help:"While all requests wait longer than D for a worker, answer those that have with ERROR 4 (${default})."`
	HandleWait      handleWaits `group:"load" placeholder:"MAIN/SUB=D" help:"The same for one handle; off: its requests are always handled. Repeatable."`
	AcceptRate      limit       `group:"load" default:"off" placeholder:"N" help:"Limit of new connections in a second (${default})."`
	AcceptRatePerIP limit       `group:"load" name:"accept-rate-per-ip" default:"off" placeholder:"N" help:"Limit of new connections from one address in a second (${default})."`
	FrameRate       limit       `group:"load" default:"off" placeholder:"N" help:"Limit of frames read from one session in a second: above it reading pauses (${default})."`
	ByteRate        perSecond   `group:"load" default:"off" placeholder:"BYTES" help:"Limit of bytes read from one session in a second: above it reading pauses (${default})."`
	SessionCPU      timeout     `group:"load" name:"session-cpu" default:"off" placeholder:"D" help:"Limit of the time that one session's handlers, and writes to it, take in a second: above it reading pauses (${default})."`
	Costs           bool        `group:"load" help:"Account the time that each session, tag and handle takes, for --admin and top (false)."`

	FirstFrameTimeout timeout `group:"times" default:"10s" placeholder:"D" help:"From accept to the first complete frame; off for clients that only listen (${default})."`
	FrameTimeout      timeout `group:"times" default:"10s" placeholder:"D" help:"From the first to the last byte of a frame (${default})."`
	IdleTimeout       timeout `group:"times" default:"off" placeholder:"D" help:"Time without a complete frame from the client (${default})."`
	Heartbeat         timeout `group:"times" default:"off" placeholder:"D" help:"Send PING to a session that has been silent for D (${default})."`
	Linger            period  `group:"times" default:"2s" placeholder:"D" help:"At close, time to send what is unsent and to wait for the peer's FIN (${default})."`
	FinTimeout        period  `group:"times" default:"5m" placeholder:"D" help:"From the peer's FIN until pending answers must be sent (${default})."`

	Resume timeout `group:"times" default:"off" placeholder:"D" help:"Keep a session for D after its connection is lost, so that a client that began with a HELLO frame can resume it; off for none (${default})."`

	Handover timeout `group:"times" default:"5s" placeholder:"D" help:"With --resume and --cluster: how long a draining node keeps a session whose connection has ended, for another node to take it over; off for not at all (${default})."`

	DrainRate auto  `group:"times" default:"auto" placeholder:"N" help:"Sessions sent GOAWAY in a second during a drain (${default}: 200, or as many as needed to reach all in a quarter of --drain-timeout)."`
	DrainTo   place `group:"times" placeholder:"ADDR" help:"Address that GOAWAY tells clients to reconnect to: HOST:PORT, or a URL such as ws://HOST:PORT/PATH; up to 256 bytes (none)."`

	Recorder     recorderOption `group:"record" default:"off" placeholder:"MODE" help:"Record the last events of each session, in 512 bytes for each: off, errors (keep and log those of sessions that end with an error or stall) or on (keep those of all sessions that end) (${default})."`
	RecorderKeep count          `group:"record" default:"64" placeholder:"N" help:"How many recordings, stalls and nearly reached limits are kept (${default})."`

	SystemFrames     bool    `group:"socket" default:"true" help:"PING, ERROR and GOAWAY on Main 0; --system-frames=false for clients that do not know them (${default})."`
	ReadBuffer       size    `group:"socket" default:"64KiB" placeholder:"BYTES" help:"Size of each loop's read buffer, the most that one read returns (${default})."`
	SocketRecvBuffer buffer  `group:"socket" default:"off" placeholder:"BYTES" help:"SO_RCVBUF; off for the system's default (${default})."`
	SocketSendBuffer buffer  `group:"socket" default:"off" placeholder:"BYTES" help:"SO_SNDBUF; off for the system's default (${default})."`
	NoDelay          bool    `group:"socket" default:"true" help:"TCP_NODELAY; --no-delay=false leaves Nagle's algorithm on (${default})."`
	KeepAlive        timeout `group:"socket" default:"30s" placeholder:"D" help:"Idle time before the first TCP keep-alive probe; off for none (${default})."`
	KeepAliveEvery   period  `group:"socket" default:"10s" placeholder:"D" help:"Time between two keep-alive probes (${default})."`
	KeepAliveCount   count   `group:"socket" default:"3" placeholder:"N" help:"Unanswered probes before the connection is considered dead (${default})."`
	UserTimeout      timeout `group:"socket" default:"15s" placeholder:"D" help:"TCP_USER_TIMEOUT: a connection on which sent data stays unacknowledged for D is considered dead; off for the system's default (${default})."`
	UnixMode         mode    `group:"socket" default:"umask" placeholder:"OCTAL" help:"Permissions of unix sockets, such as 0660; umask for those that the umask leaves (${default})."`
	DrainBudget      count   `group:"socket" default:"256" placeholder:"N" help:"Most sessions written to in one flush pass of a loop (${default})."`
}

// config returns the engine's Config for the flags. handles says where the server's own blocking
// handlers must run; --handle-dispatch overrides it.
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
			FinTimeout: time.Duration(f.FinTimeout), Linger: time.Duration(f.Linger), Resume: time.Duration(f.Resume), Handover: f.Handover.engine(),
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
		DrainBudget: int(f.DrainBudget), DrainRate: int(f.DrainRate), DrainTo: string(f.DrainTo),
		Logger: logger,
	}
}

// maxFrame returns 0 for the default, so that the engine can adapt it to a narrow length field.
func (f *engineFlags) maxFrame() int {
	if f.MaxFrame == codec.DefaultMaxFrame {
		return 0
	}
	return int(f.MaxFrame)
}

// flagOf returns the flag that sets a field of engine.Config or codec.Layout.
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

// newLogger creates serve's log. Attributes that look like secrets are masked. The level may be
// changed later.
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
