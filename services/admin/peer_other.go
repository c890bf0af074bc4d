//go:build !linux

package admin

import (
	"errors"
	"net/netip"
)

func ownPeer(_, _ netip.AddrPort) error {
	return errors.New("the owner of the connection can't be determined on this system")
}
