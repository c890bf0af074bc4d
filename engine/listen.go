package engine

import (
	"context"
	"errors"
	"net"
)

// bound is a listen address after its probing: what gnet is to bind, and what it is.
type bound struct {
	addr  string // for gnet
	real  net.Addr
	close func() // lets go what holds the port until gnet has it; may be nil
	unix  bool
}

// listen probes the addresses, starts the reactors on them and tests them.
func (srv *Server) listen(context.Context) error {
	var tcp, unix []string
	var holds []*bound
	defer func() {
		for _, b := range holds {
			if b.close != nil {
				b.close()
			}
		}
	}()
	var errs []error
	for _, a := range srv.cfg.Addrs {
		p, err := parseAddr(a)
		if err != nil {
			return err
		}
		b, err := srv.bind(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		holds = append(holds, b)
		if b.unix {
			unix = append(unix, b.addr)
		} else {
			tcp = append(tcp, b.addr)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := srv.startReactor(tcp, srv.cfg.Accept == AcceptSingle); err != nil {
		return err
	}
	if err := srv.startReactor(unix, true); err != nil {
		return err
	}
	var alone []net.Addr // what one goroutine accepts
	srv.mu.Lock()
	for _, b := range holds {
		srv.addrs = append(srv.addrs, b.real)
		if b.unix || srv.cfg.Accept == AcceptSingle {
			alone = append(alone, b.real)
		}
	}
	srv.mu.Unlock()
	if len(alone) > 0 {
		srv.plat.discoverAcceptor(alone)
	}
	return nil
}

func (srv *Server) startReactor(addrs []string, single bool) error {
	if len(addrs) == 0 {
		return nil
	}
	r := srv.newReactor(single)
	if err := r.run(addrs); err != nil {
		return err
	}
	srv.mu.Lock()
	srv.reactor = append(srv.reactor, r)
	srv.mu.Unlock()
	if err := r.probeLoops(); err != nil {
		return err
	}
	srv.bg.Add(1)
	go r.supervise()
	return nil
}

func (srv *Server) stopReactors() {
	srv.mu.Lock()
	rs := srv.reactor
	srv.mu.Unlock()
	for _, r := range rs {
		r.stop()
	}
}
