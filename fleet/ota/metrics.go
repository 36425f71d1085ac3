package ota

import (
	"context"
	"strings"

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

// floors are the highest floors that released versions set.
type floors map[class]manifest.Version

type class struct{ tenant, folded string }

func classOf(a *Artifact) class { return class{a.Tenant, strings.ToLower(a.Class)} }

func (f floors) add(a *Artifact, m *manifest.Manifest) {
	if at := classOf(a); m.Floor.Compare(f[at]) > 0 {
		f[at] = m.Floor
	}
}

// Totals counts for the metrics.
func (s *Service) Totals(ctx context.Context) (t Totals, err error) {
	list, floors, ended, err := s.all(ctx)
	if err != nil {
		return t, err
	}
	t.States, t.Ended = map[State]int64{Waiting: 0, Released: 0, Withdrawn: 0}, ended
	for i := range list {
		a := &list[i]
		t.States[a.State]++
		if a.State == Released && a.Version.Compare(floors[classOf(a)]) < 0 {
			t.Below++
		}
	}
	return t, nil
}

// all gives the versions of all tenants, their floors, and how many of the released
// ones have ended.
func (s *Service) all(ctx context.Context) (list []Artifact, f floors, ended int64, err error) {
	list, err = s.cfg.Store.AllArtifacts(ctx)
	f = floors{}
	for i := range list {
		a := &list[i]
		if a.State != Released {
			continue
		}
		m, err := s.verify(a.Manifest)
		if err != nil || m.Expired(s.now()) {
			ended++
			continue
		}
		f.add(a, m)
	}
	return list, f, ended, err
}

// DevicesBelow counts the devices that say that they run a version below the floor of a
// released one of their class: they have what was fixed there. It goes over the index, so
// in a fleet of millions it takes its time.
func (s *Service) DevicesBelow(ctx context.Context) (n int64, err error) {
	_, floors, _, err := s.all(ctx)
	tenants := map[string]bool{}
	for at := range floors {
		tenants[at.tenant] = true
	}
	for tenant := range tenants {
		if err != nil {
			break
		}
		var list []Running
		list, err = s.cfg.Store.RunningVersions(ctx, tenant)
		for _, r := range list {
			if v, err := manifest.ParseVersion(r.Version); err == nil && v.Compare(floors[class{tenant, r.Class}]) < 0 {
				n += r.Devices
			}
		}
	}
	return n, err
}
