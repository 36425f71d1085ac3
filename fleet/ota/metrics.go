package ota

import (
	"context"

	"hallmark/fleet/ota/manifest"
)

// Totals is what metrics say of firmware.
type Totals struct {
	States map[State]int64
	// Below is how many released versions are below the floor that a newer released one
	// of their class sets: what was fixed there is still offered.
	Below int64
	// Ended is how many released versions have a manifest that ended, or that does not
	// count any more: no device takes them.
	Ended int64
}

// Totals counts for the metrics.
func (s *Service) Totals(ctx context.Context) (t Totals, err error) {
	list, err := s.cfg.Store.AllArtifacts(ctx)
	if err != nil {
		return t, err
	}
	t.States = map[State]int64{Waiting: 0, Released: 0, Withdrawn: 0}
	type class struct{ tenant, name string }
	floors := map[class]manifest.Version{}
	for i := range list {
		a := &list[i]
		t.States[a.State]++
		if a.State != Released {
			continue
		}
		m, err := s.verify(a.Manifest)
		if err != nil || m.Expired(s.now()) {
			t.Ended++
			continue
		}
		at := class{a.Tenant, a.Class}
		if m.Floor.Compare(floors[at]) > 0 {
			floors[at] = m.Floor
		}
	}
	for i := range list {
		if a := &list[i]; a.State == Released && a.Version.Compare(floors[class{a.Tenant, a.Class}]) < 0 {
			t.Below++
		}
	}
	return t, nil
}
