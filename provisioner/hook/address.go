package hook

import (
	"net/netip"
	"net/url"
	"strings"
)

// special are the blocks that are not the public Internet (IANA's registries
// of special-purpose addresses, RFC 6890) and those in which an IPv4 address
// hides (RFC 6052, RFC 3056, RFC 4380). An address in one needs a prefix of
// the allow-list that lies inside the block.
var special = func() (out []netip.Prefix) {
	for _, s := range strings.Fields(`
		0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12
		192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16
		192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
		::/96 ::1/128 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16
		3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8`) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// allowList says which addresses may be dialled.
type allowList []netip.Prefix

// newAllowList brings prefixes to the form in which they are compared: masked,
// and IPv4 where IPv6 maps it.
func newAllowList(prefixes []netip.Prefix) (allowList, error) {
	out := make(allowList, 0, len(prefixes))
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, ErrConfig.New("An allowed address is not valid.")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// allows reports whether addr may be dialled.
func (l allowList) allows(addr netip.Addr) bool {
	// An IPv4-mapped address is the IPv4 address; a zone names an interface,
	// which no hook needs.
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return false
	}
	for _, p := range l {
		if p.Contains(addr) && explicit(p, addr) {
			return true
		}
	}
	return false
}

// explicit reports whether prefix p lies within every special block of addr.
func explicit(p netip.Prefix, addr netip.Addr) bool {
	for _, block := range special {
		if block.Contains(addr) && p.Bits() < block.Bits() {
			return false
		}
	}
	return true
}

// checkURL refuses what could be read in two ways or could never be allowed.
func checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, ErrConfig.New("The URL cannot be read.")
	}
	host := u.Hostname()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, ErrConfig.New("The URL must begin with https://.")
	case u.User != nil || u.Fragment != "" || strings.Contains(text, "#") || u.Opaque != "":
		return nil, ErrConfig.New("The URL has a user, a fragment or no host.")
	case host == "" || u.String() != text:
		return nil, ErrConfig.New("The URL is not in its plain form.")
	}
	for _, r := range text {
		if r <= ' ' || r >= 0x7f {
			return nil, ErrConfig.New("The URL has characters that must be escaped.")
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		if strings.Contains(host, "%") {
			return nil, ErrAddress.New("The URL names a network interface.")
		}
		return u, nil
	}
	// What is no canonical address but ends in a number (RFC 3986, Section
	// 7.4) is decimal, octal, hexadecimal or shortened notation: some
	// resolvers read 2130706433 as 127.0.0.1.
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") || strings.Contains(host, ":") {
		return nil, ErrAddress.New("The URL's host is a number but no address in plain form.")
	}
	return u, nil
}
