package jobs

import (
	"context"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

// decision is one round for one job, inside its transaction.
type decision struct {
	s       *Service
	c       *change
	j       *Job
	now     time.Time
	changed bool // the job's row has to be written
	more    bool // another round has something to do
	gone    bool // the row was removed
}

// counted are the job's counts with what this transaction did.
func (d *decision) counted() Counts { return d.j.Counts.plus(*d.c.count(d.j.Tenant, d.j.ID)) }

func (d *decision) decide(ctx context.Context, p *page) error {
	j := d.j
	// 1. What is being taken back.
	switch j.Status {
	case JobDeleting:
		return d.delete(ctx)
	case JobCanceled:
		return d.cancel(ctx)
	case JobCompleted:
		j.Active, d.changed = false, true
		return nil
	}
	// 2. Reasons to end it.
	phase := j.Schedule.Phase(d.now)
	if phase == rollout.After && !j.Stopped {
		d.changed, d.more = true, true
		switch j.Schedule.EndBehavior {
		case rollout.Cancel, rollout.ForceCancel:
			d.takeBack(j.Schedule.EndBehavior == rollout.ForceCancel, "SCHEDULE_ENDED", "The schedule ended.")
		default:
			j.Stopped, j.Status = true, JobInProgress
		}
		return nil
	}
	if i := j.Abort.Decide(j.Counts.tally()); i >= 0 {
		d.changed, d.more = true, true
		d.takeBack(false, "ABORT_CRITERION_FULFILLED", "Abort criterion "+string(j.Abort.Criteria[i].FailureType)+" was fulfilled.")
		return nil
	}
	if j.Stopped {
		n, err := d.s.store.DropWaiting(ctx, j.scope(), j.ID, dropBatch)
		if err != nil {
			return err
		}
		d.c.count(j.Tenant, j.ID).Waiting -= n
		d.more = n == dropBatch
		return d.complete()
	}
	// 3. Whom it is for.
	if p != nil {
		if err := d.apply(ctx, p, phase); err != nil {
			return err
		}
	}
	// 4. Roll-out.
	if j.Status == JobScheduled && phase != rollout.Before {
		j.Status, d.changed = JobInProgress, true
	}
	if j.Status == JobInProgress && phase == rollout.Open {
		if err := d.release(ctx); err != nil {
			return err
		}
	}
	return d.complete()
}

// takeBack cancels the job for a reason of its own.
func (d *decision) takeBack(force bool, reason, comment string) {
	d.j.cancel(force, reason, comment)
	d.c.events = append(d.c.events, jobEvent{*d.j, "cancellation_in_progress"})
}

// cancel takes back what is not done, a batch at a time.
func (d *decision) cancel(ctx context.Context) error {
	j := d.j
	n, err := d.s.store.DropWaiting(ctx, j.scope(), j.ID, dropBatch)
	if err != nil {
		return err
	}
	d.c.count(j.Tenant, j.ID).Waiting -= n
	if n == dropBatch {
		d.more = true
		return nil
	}
	for _, s := range []Status{Queued, InProgress} {
		if s == InProgress && !j.Force {
			break
		}
		list, err := d.s.store.ExecutionsOfJob(ctx, j.scope(), j.ID, s.Rank(), "", batch)
		if err != nil {
			return err
		}
		for _, e := range list {
			is := e.end(Canceled, d.now)
			is.Forced = s == InProgress
			if err := d.c.put(ctx, e, is); err != nil {
				return err
			}
		}
		if len(list) == batch {
			d.more = true
			return nil
		}
	}
	j.Active, d.changed = false, true
	done := *j
	done.Counts = d.counted()
	d.c.events = append(d.c.events, jobEvent{done, "canceled"})
	return nil
}

// delete removes executions a batch at a time, then the job.
func (d *decision) delete(ctx context.Context) error {
	j := d.j
	list, err := d.s.store.ExecutionsOfJob(ctx, j.scope(), j.ID, -1, "", batch)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := d.c.drop(ctx, e); err != nil {
			return err
		}
	}
	if len(list) > 0 {
		d.more = true
		return nil
	}
	d.gone = true
	d.c.events = append(d.c.events, jobEvent{*j, "deleted"})
	return d.s.store.DropJob(ctx, j.scope(), j.ID)
}

// apply compares a page of things with the executions in the same range.
func (d *decision) apply(ctx context.Context, p *page, phase rollout.Phase) error {
	j := d.j
	have, err := d.s.store.ExecutionsOfJob(ctx, j.scope(), j.ID, -1, fleet.ThingName(j.Cursor), 2*targetPage)
	if err != nil {
		return err
	}
	if n := len(have); n == 2*targetPage {
		// There may be more: the range ends with what was read.
		if last := have[n-1].Thing.Fold(); p.upTo == "" || last < p.upTo {
			p = &page{p.things, last}
			p.cut(len(p.things))
		}
	}
	known := map[string]Execution{}
	for _, e := range have {
		if p.upTo == "" || e.Thing.Fold() <= p.upTo {
			known[e.Thing.Fold()] = e
		}
	}
	if j.Cursor == "" {
		j.SweptAt = d.now
	}
	for _, t := range p.things {
		e, ok := known[t.Fold()]
		delete(known, t.Fold())
		next := Execution{Tenant: j.Tenant, Job: j.ID, Thing: t, Number: 1, Latest: true, Status: Waiting, Version: 1, UpdatedAt: d.now}
		if j.Enumerated && j.Status == JobInProgress && phase == rollout.Open {
			next = next.queue(d.now) // who joins later waits for no rate
		}
		switch {
		case !ok:
			err = d.c.add(ctx, next)
		case e.Status == Removed && j.Selection == Continuous: // it left and is back: its retries begin anew
			next.Number = e.Number + 1
			err = d.c.follow(ctx, &e, e.Version, next)
		}
		if err != nil {
			return err
		}
	}
	for _, e := range known { // nobody's any more
		if e.Status.Terminal() || j.Selection != Continuous {
			continue
		}
		if err := d.c.put(ctx, e, e.end(Removed, d.now)); err != nil {
			return err
		}
	}
	d.changed = true
	if j.Cursor = p.upTo; j.Cursor == "" {
		j.Enumerated = true
	} else {
		d.more = true
	}
	return nil
}

// release queues as many waiting things as the rate allows.
func (d *decision) release(ctx context.Context) error {
	j := d.j
	counts := d.counted()
	if counts.Waiting == 0 {
		return nil
	}
	allowed := j.Window.Allow(d.now, j.Rollout.PerMinute(counts.notified(), counts.Succeeded))
	if allowed == 0 {
		return nil
	}
	list, err := d.s.store.ExecutionsOfJob(ctx, j.scope(), j.ID, Waiting.Rank(), "", min(allowed, batch))
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := d.c.put(ctx, e, e.queue(d.now)); err != nil {
			return err
		}
	}
	j.Window.Add(d.now, len(list))
	d.changed = d.changed || len(list) > 0
	d.more = d.more || len(list) == batch
	return nil
}

// complete ends a job of which nothing is left to do.
func (d *decision) complete() error {
	j := d.j
	counts := d.counted()
	if j.Status != JobInProgress || counts.open() > 0 || !j.Stopped && (!j.Enumerated || j.Selection == Continuous) {
		return nil
	}
	j.Status, j.Active, j.CompletedAt, d.changed = JobCompleted, false, d.now, true
	done := *j
	done.Counts, done.UpdatedAt = counts, d.now
	d.c.events = append(d.c.events, jobEvent{done, "completed"})
	return nil
}
