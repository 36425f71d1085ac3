package rotation

import (
	"encoding/binary"
	"time"
)

// A certificate is renewed between these parts of its life, in permille: early
// enough that a service that is away for long harms nobody.
const (
	windowFrom = 500
	windowTo   = 670
	windowLong = 10
)

// Window is when a device is to renew a certificate.
type Window struct {
	Start, End time.Time
}

// WindowOf gives the window of a certificate: a hundredth of its life, at a place
// that follows from its fingerprint alone, so that every node says the same and a
// fleet that was made in one day does not renew in one.
func WindowOf(fingerprint [32]byte, notBefore, notAfter time.Time) Window {
	life := notAfter.Sub(notBefore)
	if life <= 0 {
		return Window{notBefore.UTC(), notBefore.UTC()}
	}
	part := life / 1000
	start := notBefore.Add(windowFrom*part + time.Duration(place(fingerprint)*float64((windowTo-windowFrom-windowLong)*part))).UTC().Truncate(time.Second)
	return Window{start, start.Add(windowLong * part).Truncate(time.Second)}
}

// place is where in a fleet a certificate is, from 0 to 1. It is that of the last
// octets: the first ones name the certificate elsewhere.
func place(fingerprint [32]byte) float64 {
	return float64(binary.BigEndian.Uint32(fingerprint[28:])) / (1 << 32)
}

// Again is how long a device should wait before it asks for its window again: a
// server that wants a fleet renewed sooner is heard within a day.
func (w Window) Again(now time.Time) time.Duration {
	d := w.Start.Sub(now)
	return min(max(d, time.Minute), 24*time.Hour)
}
