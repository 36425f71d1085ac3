package ownership

import (
	"context"
	"fmt"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/fsck"
)

// Fsck holds each unit against its history, against what it left behind, and against
// the names of its owner's own units. That rows are as written, and that none is
// gone, is the store's to say.
func (s *Service) Fsck(ctx context.Context) (out []fsck.Finding, err error) {
	now := s.now()
	err = s.store.EachUnit(ctx, func(u Unit, broken error) error {
		object := "ownership " + u.Home + "/" + u.Holder
		add := func(check, detail string, args ...any) {
			out = append(out, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
		}
		if broken != nil {
			return nil // named where its table is read
		}
		events, err := s.store.OwnershipEvents(ctx, access.Scope{Tenant: u.Tenant}, u.Holder)
		if err != nil {
			add("ownership-history", "The history cannot be read: %v", err)
			return nil
		}
		last := What("")
		for i := range events {
			if events[i].Seq != int64(i+1) {
				add("ownership-history", "Event %d of %s is missing.", i+1, u.Tenant)
				break
			}
			last = events[i].What
		}
		want := map[State][]What{Owned: {DidAccept, DidReset, DidWithdraw}, Released: {DidRelease}, Decommissioned: {DidDecommission}}[u.State]
		fits := false
		for _, w := range want {
			fits = fits || w == last
		}
		if !fits {
			add("ownership-history", "It is %s, and the last that its owner's history says is %q.", u.State, last)
		}
		if u.State == Released {
			if a, err := s.store.OwnershipAct(ctx, access.Scope{Tenant: u.Tenant}, u.Act); err != nil || a.State != Open {
				add("ownership-act", "It waits for the release %q, which is not open.", u.Act)
			}
		}
		for _, tenant := range []string{u.Home, u.Tenant} {
			if tenant == u.Tenant && u.State == Owned {
				continue
			}
			if n, err := s.live(ctx, tenant, u.Holder, profile.LDevID, func(r *ca.Record) bool { return !r.Revoked() && r.DER != nil && now.Before(r.NotAfter) }); err != nil {
				return err
			} else if n > 0 {
				add("ownership-live", "It left %s, and has %d operational certificates in force there.", tenant, n)
			}
			if u.Home == u.Tenant {
				break
			}
		}
		if u.Foreign() && u.State != Decommissioned {
			n, err := s.live(ctx, u.Tenant, u.Holder, profile.IDevID, func(r *ca.Record) bool { return r.State != "" })
			if err != nil {
				return err
			}
			if n > 0 {
				add("ownership-name", "%s made a unit of the same name, after it accepted this one.", u.Tenant)
			}
		}
		return nil
	})
	return out, err
}

// live counts certificates of a holder.
func (s *Service) live(ctx context.Context, tenant, holder string, p profile.Name, count func(r *ca.Record) bool) (n int, err error) {
	q := ca.RecordQuery{Tenant: tenant, Holder: holder, Profile: string(p), Limit: 1000}
	for {
		page, err := s.store.Records(ctx, q)
		if err != nil {
			return n, err
		}
		for i := range page {
			if count(&page[i]) {
				n++
			}
		}
		if len(page) < q.Limit {
			return n, nil
		}
		q.After = page[len(page)-1].ID
	}
}
