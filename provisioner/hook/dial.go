package hook

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Dialer dials TCP to allowed addresses and to nothing else, for other calls whose
// target somebody outside names. The address is checked after resolution, and it
// is the one that is dialled (A58). An empty list allows nothing.
func Dialer(prefixes []netip.Prefix, resolver *net.Resolver, timeout time.Duration) (*net.Dialer, error) {
	allowed, err := newAllowList(prefixes)
	if err != nil {
		return nil, err
	}
	return &net.Dialer{Timeout: timeout, Resolver: resolver, ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !strings.HasPrefix(network, "tcp") || !allowed.allows(ap.Addr()) {
			return ErrAddress.New("The name leads to %s, which is not in the allow-list.", ap.Addr())
		}
		return nil
	}}, nil
}
