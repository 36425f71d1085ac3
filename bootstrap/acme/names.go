package acme

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"hallmark/internal/fault"
)

// ErrSites refuses a configuration.
var ErrSites = fault.Define(fault.Invalid, "acme-sites-invalid", "The names or addresses of sites are not usable.", "Correct enrolment.acme.sites.")

// Sites says which servers may prove their names.
type Sites struct {
	// Suffixes are the domains under which names may be, for example
	// plant.example.com; at least one.
	Suffixes []string
	// Networks are the addresses that http-01 may dial; none means http-01 reaches
	// nothing, and dns-01 is what is left.
	Networks []netip.Prefix
	// Resolver finds addresses and TXT records; nil means the system's.
	Resolver *net.Resolver
	// Port is that of http-01; 0 means 80, which is the standard's and the only one
	// that a configuration can have. Tests take another.
	Port int
	dial *net.Dialer
}

// hostname tells whether a text is a host name in lower case: letters, digits and
// hyphens in labels, at least two, the last one no number (RFC 1123, Section 2.1).
func hostname(name string) bool {
	if len(name) > 253 || name == "" {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		// "xn--" and whatever else has two hyphens there: nobody shows such a name as it is.
		if len(l) > 3 && l[2:4] == "--" {
			return false
		}
		for _, r := range l {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	return len(labels) > 1 && strings.ContainsFunc(last, func(r rune) bool { return r >= 'a' && r <= 'z' })
}

// Allows tells whether a name is in one of the domains.
func (t *Sites) Allows(name string) bool {
	return slices.ContainsFunc(t.Suffixes, func(s string) bool { return name == s || strings.HasSuffix(name, "."+s) })
}
