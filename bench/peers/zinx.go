package main

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/aceld/zinx/zconf"
	"github.com/aceld/zinx/ziface"
	"github.com/aceld/zinx/zlog"
	"github.com/aceld/zinx/znet"
	"github.com/aceld/zinx/zpack"
)

// serveZinx: our frame as zinx's decoder and packer, a router for each handle, logging off (zinx
// still hex-encodes each read for a line that is not written). SendMsg writes each message by
// itself; SendBuffMsg would add a goroutine with a 10 ms flush.
func serveZinx(o options) error {
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	stdout := os.Stdout // zinx prints a banner and its settings there
	if os.Stdout, err = os.Open(os.DevNull); err != nil {
		return err
	}
	conf := zconf.GlobalObject
	conf.Host, conf.TCPPort, conf.Mode = host, n, zconf.ServerModeTcp
	conf.MaxConn, conf.MaxPacketSize = 1<<20, maxFrame
	conf.WorkerPoolSize, conf.MaxWorkerTaskLen = uint32(2*o.loops), 4096
	conf.IOReadBuffSize = 4 << 10
	conf.LogIsolationLevel = zlog.LogError + 10
	conf.InitLogConfig()
	conf.RequestPoolMode = true
	s := znet.NewServer()
	s.SetDecoder(zinxDecoder{})
	s.SetPacket(zinxPacket{})
	room := &zinxRoom{conns: make(map[uint64]ziface.IConnection)}
	s.SetOnConnStart(room.join)
	s.SetOnConnStop(room.leave)
	s.AddRouter(echoHandle, &zinxEcho{})
	s.AddRouter(castHandle, &zinxCast{room: room})
	s.Start() // not Serve, which takes the signals and leaves the process running
	if err := awaitListener(addr); err != nil {
		return err
	}
	os.Stdout = stdout
	announce(addr)
	select {}
}

// awaitListener dials until the server listens: zinx has no event for it.
func awaitListener(addr string) (err error) {
	for range 500 {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// zinxDecoder cuts [length][handle][body].
type zinxDecoder struct{}

func (zinxDecoder) GetLengthField() *ziface.LengthField {
	return &ziface.LengthField{Order: binary.BigEndian, MaxFrameLength: maxFrame, LengthFieldLength: 4}
}

func (zinxDecoder) Intercept(chain ziface.IChain) ziface.IcResp {
	m := chain.GetIMessage()
	if m == nil {
		return chain.ProceedWithIMessage(m, nil)
	}
	if data := m.GetData(); len(data) >= header {
		m.SetMsgID(binary.BigEndian.Uint32(data[4:]))
		m.SetData(data[header:])
		m.SetDataLen(uint32(len(data) - header))
	}
	return chain.ProceedWithIMessage(m, nil)
}

type zinxPacket struct{}

func (zinxPacket) GetHeadLen() uint32 { return header }

func (zinxPacket) Pack(m ziface.IMessage) ([]byte, error) {
	body := m.GetData()
	out := make([]byte, header, header+len(body))
	binary.BigEndian.PutUint32(out, uint32(4+len(body)))
	binary.BigEndian.PutUint32(out[4:], m.GetMsgID())
	return append(out, body...), nil
}

func (zinxPacket) Unpack(b []byte) (ziface.IMessage, error) {
	return zpack.NewMsgPackage(binary.BigEndian.Uint32(b[4:]), nil), nil
}

type zinxRoom struct {
	mu    sync.RWMutex
	conns map[uint64]ziface.IConnection
}

func (r *zinxRoom) join(c ziface.IConnection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c.GetConnID()] = c
}

func (r *zinxRoom) leave(c ziface.IConnection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c.GetConnID())
}

type zinxEcho struct{ znet.BaseRouter }

func (*zinxEcho) Handle(r ziface.IRequest) {
	_ = r.GetConnection().SendMsg(echoHandle, r.GetData())
}

type zinxCast struct {
	znet.BaseRouter
	room *zinxRoom
}

func (z *zinxCast) Handle(r ziface.IRequest) {
	frame, _ := zinxPacket{}.Pack(zpack.NewMsgPackage(castHandle, r.GetData()))
	z.room.mu.RLock()
	defer z.room.mu.RUnlock()
	for _, c := range z.room.conns {
		_ = c.Send(frame)
	}
}
