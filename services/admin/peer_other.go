//go:build !linux

package admin

import (
	"errors"
	"net/netip"
)

func ownPeer(_, _ netip.AddrPort) error {
	return errors.New("whose connection it is can't be told on this system")
}
