package crl

import (
	"context"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
)

// Rotator gives the devices of a plan new certificates. What it does may be done
// again, after a kill or by another node.
type Rotator interface {
	// Ready refuses a plan whose devices would get certificates that are no better.
	Ready(ctx context.Context, p *BlastPlan) error
	// Connected tells whether the device of a certificate is connected now.
	Connected(ctx context.Context, s *Story) (bool, error)
	// Take offers new certificates to the devices of these certificates that are
	// connected, and tells which those are.
	Take(ctx context.Context, p *BlastPlan, s []Story) (taken []bool, err error)
	// Taken tells how many devices are under way and how many live on their new
	// certificate. halted says why nobody goes on, if somebody sees to that.
	Taken(ctx context.Context, p *BlastPlan) (waiting, rotated int64, halted string, err error)
	// End takes back what no device has begun.
	End(ctx context.Context, p *BlastPlan) error
}

// rotates refuses a plan that cannot rotate.
func (b *Blast) rotates(ctx context.Context, p *BlastPlan) error {
	if p.Rotate == nil {
		return ErrBlastStage.New("The plan was made without rotation.")
	}
	if b.cfg.Rotator == nil {
		return ErrBlastStage.New("This service has no rotation.")
	}
	return b.cfg.Rotator.Ready(ctx, p)
}

// rotatePoll is how often devices that are being rotated are counted.
const rotatePoll = time.Second

// stepRotate is [Blast.Step] for the stage rotate. It goes over the members twice, and
// waits in between:
//
//  1. The device of an operational certificate that is connected is offered a new one,
//     with which it has to connect before the old one is retired. Others are held.
//  2. Each device that was offered one ends: on the new certificate, or not.
//  3. What is still good of the plan's operational certificates is held: those of
//     devices that did not make it, and that fell asleep.
//
// So at no time is a device that could be rotated without a certificate, and at the end
// nothing of the plan is in use that a second person has not seen rotated. Birth
// certificates are left to the stage revoke: renewals stand on them.
func (b *Blast) stepRotate(ctx context.Context, p *BlastPlan, size int) (wait time.Duration, err error) {
	r := *p.report()
	now := b.now().UTC().Truncate(time.Millisecond)
	if left := p.Progress.NextAt.Sub(now); left > 0 && left <= time.Minute {
		return left, nil
	}
	if err := b.rotates(ctx, p); err != nil {
		return 0, err
	}
	size = min(size, max(1, p.PerSecond/10))
	switch {
	case r.Done < p.Counts.Certificates:
		members, stories, err := b.inUse(ctx, p, r.Done, size, now)
		if err != nil {
			return 0, err
		}
		taken, err := b.cfg.Rotator.Take(ctx, p, stories)
		if err != nil {
			return 0, err
		}
		rest := stories[:0:0]
		for i := range stories {
			if !taken[i] {
				rest = append(rest, stories[i])
			}
		}
		return b.holdRest(ctx, p, rest, members, now, func(r *BlastReport) { r.Done += int64(members); r.Already += int64(members - len(stories)) })
	case !r.Settled:
		waiting, rotated, halted, err := b.cfg.Rotator.Taken(ctx, p)
		if err != nil {
			return 0, err
		}
		settled := waiting == 0
		if settled {
			if err := b.cfg.Rotator.End(ctx, p); err != nil {
				return 0, err
			}
		}
		if waiting == r.Waiting && rotated == r.Rotated && halted == p.Progress.Problem && !settled {
			return rotatePoll, nil
		}
		_, err = b.change(ctx, access.Scope{Tenant: p.Tenant}, p.ID, func(_ context.Context, now *BlastPlan, _ time.Time) error {
			if now.Version != p.Version {
				return ErrBlastMoved.New("")
			}
			r := now.report()
			r.Waiting, r.Rotated, r.Settled, now.Progress.Problem = waiting, rotated, settled, halted
			return nil
		})
		if settled {
			return 0, err
		}
		return rotatePoll, err
	}
	members, stories, err := b.inUse(ctx, p, r.Swept, size, now)
	if err != nil {
		return 0, err
	}
	return b.holdRest(ctx, p, stories, members, now, func(r *BlastReport) {
		if r.Swept += int64(members); r.Swept >= p.Counts.Certificates || members == 0 {
			r.EndedAt = now
		}
	})
}

// inUse reads the next members, and gives the stories of those that are operational
// certificates and good.
func (b *Blast) inUse(ctx context.Context, p *BlastPlan, from int64, size int, now time.Time) (members int, out []Story, err error) {
	list, err := b.cfg.Store.BlastMembers(ctx, p, from, size)
	if err != nil {
		return 0, nil, err
	}
	for i := range list {
		s, err := b.cfg.Store.Story(ctx, p.Tenant, list[i].Authority, list[i].Serial)
		if f := (*fault.Fault)(nil); errors.As(err, &f) && (f.Kind == fault.NotFound || f.Kind == fault.Internal) {
			b.log.ErrorContext(ctx, "revocation in bulk: a certificate's row cannot be trusted", "plan", p.ID, "serial", list[i].Serial.String(), "error", err)
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		if v := s.Revocation; s.Issued && s.Profile == string(profile.LDevID) && s.NotAfter.After(now) && (v == nil || !v.ReleasedAt.IsZero()) {
			out = append(out, s)
		}
	}
	return len(list), out, nil
}

// holdRest holds certificates and notes how far the stage came, in one transaction.
func (b *Blast) holdRest(ctx context.Context, p *BlastPlan, rest []Story, members int, now time.Time, note func(r *BlastReport)) (wait time.Duration, err error) {
	wait = time.Duration(members) * time.Second / time.Duration(p.PerSecond)
	held := int64(0)
	var next BlastPlan
	next, err = b.change(ctx, access.Scope{Tenant: p.Tenant}, p.ID, func(ctx context.Context, next *BlastPlan, _ time.Time) error {
		if next.Version != p.Version {
			return ErrBlastMoved.New("")
		}
		held = 0
		r := next.report()
		by := access.Actor{Tenant: p.Tenant, Kind: access.KindPrincipal, Name: r.StartedBy}
		for i := range rest {
			// As it is in this transaction: it may have been retired a moment ago.
			s, err := b.cfg.Store.Story(ctx, p.Tenant, rest[i].Authority, rest[i].Serial)
			if err != nil {
				return err
			}
			changed, err := b.revoke(ctx, by, p, &s, CertificateHold, now)
			if err != nil {
				return err
			}
			if changed {
				held++
			}
		}
		r.Held += held
		note(r)
		r.Changed = r.Held + r.Rotated
		next.Progress.NextAt = now.Add(wait)
		if !r.EndedAt.IsZero() {
			next.State, next.Progress.Stage, next.Progress.Problem = BlastReady, "", ""
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	b.cfg.Service.Stats.Held.Add(held)
	if next.State != BlastRunning {
		r := next.report()
		b.log.WarnContext(ctx, "revocation in bulk: stage ended", "plan", p.ID, "stage", string(r.Stage), "state", string(next.State), "rotated", r.Rotated, "held", r.Held)
	}
	return wait, nil
}
