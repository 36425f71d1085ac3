package crl

import (
	"context"
	"errors"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
)

const (
	blastStep     = 50 // members of one transaction: some ten milliseconds
	blastBusyStep = 10 // while the line works
	blastTries    = 5  // failures of one step in a row before a person has to look
)

// Run works on the plans that are running until ctx ends. Where a service died
// the next one goes on: how far a plan came is in the transaction of each step.
// Several nodes may run it; the version of the row lets one of them win each step.
func (b *Blast) Run(ctx context.Context) {
	failed := map[[2]string]int{}
	for {
		keys, err := b.cfg.Store.RunningBlasts(ctx)
		if err != nil && ctx.Err() == nil {
			b.log.ErrorContext(ctx, "running revocation plans cannot be listed", "error", err)
		}
		wait := time.Second
		for _, k := range keys {
			pause, err := b.Step(ctx, k[0], k[1])
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				delete(failed, k)
			case errors.Is(err, ErrBlastMoved): // another node's step, or a person's
			default:
				failed[k]++
				b.log.ErrorContext(ctx, "revocation in bulk: a step failed", "plan", k[1], "error", err)
				if pause = time.Second; failed[k] >= blastTries && b.giveUp(ctx, k, err) == nil {
					delete(failed, k)
				}
			}
			wait = min(wait, pause)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-b.kick:
			t.Stop()
		case <-t.C:
		}
	}
}

// giveUp pauses a plan whose step fails again and again, and says why in it.
func (b *Blast) giveUp(ctx context.Context, k [2]string, cause error) error {
	_, err := b.change(lane.With(ctx, lane.Status), access.Scope{Tenant: k[0]}, k[1], func(_ context.Context, p *BlastPlan, _ time.Time) error {
		if p.State != BlastRunning {
			return ErrBlastStage.New("It is %s.", p.State)
		}
		f := fault.From(cause)
		p.State, p.Progress.Problem = BlastPaused, note(strings.TrimSpace(f.What+" "+f.Detail))
		return nil
	})
	return err
}

// Step does the next members of a running plan in one transaction, and tells how
// long to wait before the one after it. [Blast.Run] calls it; tests may.
func (b *Blast) Step(ctx context.Context, tenant, id string) (wait time.Duration, err error) {
	size := blastStep
	if b.cfg.Yield != nil && b.cfg.Yield() {
		size = blastBusyStep
	}
	var p BlastPlan
	if p, err = b.cfg.Store.Blast(ctx, access.Scope{Tenant: tenant}, id); err == nil && p.State == BlastRunning && p.Progress.Stage == StageRotate {
		return b.stepRotate(lane.With(ctx, lane.Status), &p, size)
	}
	var changed int64
	err = b.cfg.Store.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		changed, wait = 0, 0
		var err error
		if p, err = b.cfg.Store.Blast(ctx, access.Scope{Tenant: tenant}, id); err != nil || p.State != BlastRunning {
			return err
		}
		now := b.now().UTC().Truncate(time.Millisecond)
		// A clock that went back does not stop the work for longer than a step takes.
		if left := p.Progress.NextAt.Sub(now); left > 0 && left <= time.Minute {
			wait = left
			return nil
		}
		n := min(size, max(1, p.PerSecond/10))
		r := p.report()
		was := *r
		if r.Stage == StageRotate {
			return ErrBlastMoved.New("") // it began a moment ago
		}
		members, err := b.cfg.Store.BlastMembers(ctx, &p, r.Done, n)
		if err != nil {
			return err
		}
		by := access.Actor{Tenant: tenant, Kind: access.KindPrincipal, Name: r.StartedBy}
		for i := range members {
			if err := b.apply(ctx, by, &p, r, &members[i], now); err != nil {
				return err
			}
			r.Done++
		}
		changed = r.Changed + r.Late - was.Changed - was.Late
		wait = time.Duration(len(members)) * time.Second / time.Duration(p.PerSecond)
		p.Progress.NextAt = now.Add(wait)
		if r.Done >= p.Counts.Certificates {
			r.EndedAt, p.State = now, BlastReady
			switch {
			case r.Stage == StageRevoke:
				p.State = BlastDone
			case r.Stage == StageRelease:
				p.State = BlastAborted
			}
			p.Progress.Stage = ""
		}
		v := p.Version
		p.Version, p.Progress.ChangedAt = v+1, now
		return b.cfg.Store.PutBlast(ctx, p, v)
	})
	if err != nil {
		return 0, err
	}
	if len(p.Progress.Reports) == 0 {
		return wait, nil
	}
	r := p.report()
	switch r.Stage {
	case StageHold:
		b.cfg.Service.Stats.Held.Add(changed)
	case StageRevoke:
		b.cfg.Service.Stats.Revoked.Add(changed)
	case StageRelease:
		b.cfg.Service.Stats.Released.Add(changed)
	}
	if p.State != BlastRunning {
		b.log.WarnContext(ctx, "revocation in bulk: stage ended", "plan", id, "stage", string(r.Stage), "state", string(p.State), "changed", r.Changed, "already", r.Already, "late", r.Late, "blocked", r.Blocked, "failed", r.Failed)
	}
	return wait, nil
}

// apply does the stage to one member: what a single revocation would do, with
// the same row and the same leaf (S32).
func (b *Blast) apply(ctx context.Context, by access.Actor, p *BlastPlan, r *BlastReport, m *BlastMember, now time.Time) error {
	story, err := b.cfg.Store.Story(ctx, p.Tenant, m.Authority, m.Serial)
	if err != nil {
		if f := (*fault.Fault)(nil); !errors.As(err, &f) || f.Kind != fault.NotFound && f.Kind != fault.Internal {
			return err
		}
		// Somebody spoilt the row; the others go on, and fsck names it.
		r.Failed++
		b.log.ErrorContext(ctx, "revocation in bulk: a certificate's row cannot be trusted", "plan", p.ID, "serial", m.Serial.String(), "error", err)
		return nil
	}
	if r.Stage == StageRelease {
		return b.release(ctx, by, p, r, &story, now)
	}
	reason := p.Reason
	if r.Stage == StageHold {
		reason = CertificateHold
		if p.Rotate != nil { // what is connected is rotated first
			online, err := b.cfg.Rotator.Connected(ctx, &story)
			if err != nil {
				return err
			}
			if online {
				r.Already++
				return nil
			}
		}
	}
	replaced := story.Revocation != nil && story.Revocation.ReleasedAt.IsZero() && story.Revocation.Reason == Superseded
	changed, err := b.revoke(ctx, by, p, &story, reason, now)
	if err != nil {
		return err
	}
	if changed {
		r.Changed++
	} else {
		r.Already++
	}
	// A birth certificate that was replaced before stands for nothing any more: the
	// device lives on another one, which the plan would name if it were meant.
	if !m.Direct || replaced {
		return nil
	}
	late, err := b.cfg.Store.BlastLate(ctx, p.Tenant, story.Holder, p.Last)
	if err != nil {
		return err
	}
	for i := range late {
		if p.Rotate != nil && late[i].Authority != p.Query.Authority {
			continue // it is what the device was given in place of this one
		}
		if changed, err = b.revoke(ctx, by, p, &late[i], reason, now); err != nil {
			return err
		}
		if changed {
			r.Late++
		}
	}
	if r.Stage != StageRevoke || p.Reenrol {
		return nil
	}
	if err := b.cfg.Store.RevokeThings(ctx, p.Tenant, story.Holder); err != nil {
		return err
	}
	added, err := b.cfg.Store.Block(ctx, p.Tenant, story.Holder, now, by.String(), p.text())
	if added {
		r.Blocked++
	}
	return err
}

// revoke revokes or holds one serial number; it is no refusal that somebody did
// it before, or for a stronger reason (A33).
func (b *Blast) revoke(ctx context.Context, by access.Actor, p *BlastPlan, story *Story, reason Reason, now time.Time) (changed bool, err error) {
	var out Result
	err = b.cfg.Service.revoke(ctx, by, story, reason, now, p.text(), &out)
	if errors.Is(err, ErrRevoked) || errors.Is(err, ErrWeaken) {
		err = nil
	}
	if err == nil && reason == KeyCompromise {
		err = b.cfg.Store.MarkCompromised(ctx, *story)
	}
	return out.Changed, err
}

// release ends a hold that this plan made, and leaves those of others.
func (b *Blast) release(ctx context.Context, by access.Actor, p *BlastPlan, r *BlastReport, first *Story, now time.Time) error {
	late, err := b.cfg.Store.BlastLate(ctx, p.Tenant, first.Holder, p.Last)
	if err != nil {
		return err
	}
	for i, story := range append([]Story{*first}, late...) {
		v := story.Revocation
		mine := v != nil && v.Reason == CertificateHold && v.ReleasedAt.IsZero() && strings.HasPrefix(v.Note, p.mark())
		switch {
		case mine:
			if err := b.cfg.Store.Release(ctx, story, now, by.String(), p.text()); err != nil {
				return err
			}
			if i > 0 {
				r.Late++
			} else {
				r.Changed++
			}
		case i == 0:
			r.Already++
		}
	}
	return nil
}
