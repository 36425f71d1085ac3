package rotation

import (
	"maps"
	"sync"
	"time"
)

// Totals are for the metrics.
type Totals struct {
	Due     int64     // certificates that end within their window, at the last scan
	Foreign int64     // of them, of other CAs: no campaign rotates them
	Soonest time.Time // when the first that is of ours ends; zero: there is none
	Scanned time.Time // when the last scan ended; zero: there was none
	Fed     int64     // devices that scans put into the campaign
	// Events is how often this service did something with a certificate.
	Events map[What]int64
}

// totals keeps them.
type totals struct {
	mu     sync.Mutex
	scans  map[string]Scanned // the last one of each tenant
	last   time.Time
	fed    int64
	events map[What]int64
}

func (t *totals) scanned(tenant string, s Scanned, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.scans == nil {
		t.scans = map[string]Scanned{}
	}
	t.scans[tenant], t.last = s, now
	t.fed += s.Fed
}

func (t *totals) happened(w What) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events == nil {
		t.events = map[What]int64{}
	}
	t.events[w]++
}

// Totals counts for the metrics.
func (s *Service) Totals() Totals {
	t := &s.totals
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Totals{Scanned: t.last, Fed: t.fed, Events: maps.Clone(t.events)}
	for _, v := range t.scans {
		out.Due += v.Due
		out.Foreign += v.Foreign
		if !v.Soonest.IsZero() && (out.Soonest.IsZero() || v.Soonest.Before(out.Soonest)) {
			out.Soonest = v.Soonest
		}
	}
	return out
}
