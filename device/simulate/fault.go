package simulate

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// FaultKind is something that happens to a device.
type FaultKind string

// The kinds.
const (
	PowerCut    FaultKind = "power-cut"
	DiskFull    FaultKind = "disk-full"
	ClockAhead  FaultKind = "clock-ahead"  // by 22 years
	ClockBehind FaultKind = "clock-behind" // by 36 years
	NetworkCut  FaultKind = "network-cut"
)

// FaultKinds lists them.
var FaultKinds = []FaultKind{PowerCut, DiskFull, ClockAhead, ClockBehind, NetworkCut}

// Fault is a fault at a step; the step "" is the next one.
type Fault struct {
	Kind FaultKind
	Step string
}

// Steps are those of a change of keys, in their order. "write NAME" is before a file
// is replaced.
var Steps = []string{
	"rotate-begin", "write rotation.json", "rotate-key", "write key.pem", "rotate-ask", "rotate-answered", "store", "write registration.json", "write cert.pem",
	"rotate-issued", "rotate-stored", "rotate-trial", "rotate-promote", "write retired", "write active", "rotate-export", "write ldevid.key", "write ldevid.pem",
	"rotate-connected", "rotate-report", "rotate-forget",
}

// RandomFaults gives a share of a fleet one fault each, of the given kinds, at a
// random step of a change of keys.
func RandomFaults(kinds []FaultKind, share float64) func(i int) []Fault {
	return func(int) []Fault {
		if len(kinds) == 0 || rand.Float64() >= share {
			return nil
		}
		return []Fault{{kinds[rand.IntN(len(kinds))], Steps[rand.IntN(len(Steps))]}}
	}
}

// ParseFaults reads kinds, separated by commas; "all" is all of them.
func ParseFaults(text string) ([]FaultKind, error) {
	if text == "all" {
		return FaultKinds, nil
	}
	var out []FaultKind
	for _, k := range strings.Split(text, ",") {
		if !slices.Contains(FaultKinds, FaultKind(k)) {
			return nil, ErrConfig.New("The fault %.40q is none of %v.", k, FaultKinds)
		}
		out = append(out, FaultKind(k))
	}
	return out, nil
}

// spoil begins a fault, and has it end a little later; the caller holds the lock.
func (a *agent) spoil(k FaultKind) {
	var mend func()
	switch k {
	case PowerCut:
		a.off = true
		a.stop()
		a.drop()
		return
	case DiskFull:
		a.full, mend = true, func() { a.full = false }
	case ClockAhead:
		a.skew, mend = 22*365*24*time.Hour, func() { a.skew = 0 }
		a.drop() // what it does next it does by the new clock
	case ClockBehind:
		a.skew, mend = -36*365*24*time.Hour, func() { a.skew = 0 }
	case NetworkCut:
		a.cut, mend = true, func() { a.cut = false }
		a.drop()
	default:
		return
	}
	after := a.d.s.agents.Mend
	if after <= 0 {
		after = 50 * time.Millisecond
	}
	time.AfterFunc(after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		mend()
	})
}

// drop breaks all connections; the caller holds the lock.
func (a *agent) drop() {
	for c := range a.streams {
		c.Close()
		delete(a.streams, c)
	}
}

func base(name string) string { return filepath.Base(name) }
