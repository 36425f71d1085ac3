package jobs

import (
	"context"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// change is what one transaction does to executions: it writes them, keeps the
// jobs' counts, and finds out which devices have to be told what. The telling
// comes after the commit.
type change struct {
	store  Store
	now    time.Time
	counts map[jobKey]*Counts
	things map[thingKey]*touched
	order  []thingKey // of things, as they were touched
	jobs   map[jobKey]*Job
	ended  []Execution // for events
	gone   []Execution // deleted with their job
	events []jobEvent

	changed func(ctx context.Context, e *Execution) error
}

type (
	jobKey   struct{ tenant, job string }
	thingKey struct{ tenant, folded string }

	// attempt tells executions of a thing apart.
	attempt struct {
		job    string
		number int64
	}

	// touched is a thing whose pending executions may have changed.
	touched struct {
		name  fleet.ThingName
		first attempt // pending before; zero: none
		moved bool    // an execution entered or left the list
		other bool    // another execution, or none, is the first now
		again bool    // nothing changed: it is reminded
	}

	jobEvent struct {
		job       Job
		operation string
	}
)

func newChange(store Store, now time.Time) *change {
	return &change{store: store, now: now, counts: map[jobKey]*Counts{}, things: map[thingKey]*touched{}, jobs: map[jobKey]*Job{}}
}

// touch remembers what a thing had to do before this transaction changes it.
func (c *change) touch(ctx context.Context, tenant string, thing fleet.ThingName) (*touched, error) {
	k := thingKey{tenant, thing.Fold()}
	if t := c.things[k]; t != nil {
		return t, nil
	}
	t := &touched{name: thing}
	first, err := c.store.PendingExecutions(ctx, access.Scope{Tenant: tenant}, thing, 1)
	if err != nil {
		return nil, err
	}
	t.first = firstOf(first)
	c.things[k] = t
	c.order = append(c.order, k)
	return t, nil
}

func firstOf(list []Execution) attempt {
	if len(list) == 0 {
		return attempt{}
	}
	return attempt{list[0].Job, list[0].Number}
}

func (c *change) count(tenant, job string) *Counts {
	k := jobKey{tenant, job}
	if c.counts[k] == nil {
		c.counts[k] = &Counts{}
	}
	return c.counts[k]
}

// notice keeps the accounts of a thing's way from one state to another; "" is none.
func (c *change) notice(ctx context.Context, e *Execution, from, to Status) error {
	if from.Pending() || to.Pending() {
		t, err := c.touch(ctx, e.Tenant, e.Thing)
		if err != nil {
			return err
		}
		t.moved = t.moved || from.Pending() != to.Pending()
	}
	n := c.count(e.Tenant, e.Job)
	if from != "" {
		*n.at(from)--
	}
	if to != "" {
		*n.at(to)++
	}
	if to != "" && to != from && to.Terminal() {
		c.ended = append(c.ended, *e)
	}
	if c.changed != nil && to != from && (to == InProgress || to != "" && to.Terminal()) {
		return c.changed(ctx, e)
	}
	return nil
}

// add writes a new execution.
func (c *change) add(ctx context.Context, e Execution) error {
	if err := c.notice(ctx, &e, "", e.Status); err != nil {
		return err
	}
	return c.store.AddExecution(ctx, e)
}

// put writes the next version of an execution.
func (c *change) put(ctx context.Context, was, e Execution) error {
	if err := c.notice(ctx, &e, was.Status, e.Status); err != nil {
		return err
	}
	return c.store.PutExecution(ctx, e, was.Version)
}

// again ends an attempt and queues the next one. The thing stays pending, but
// with another execution.
func (c *change) again(ctx context.Context, was, e Execution) error {
	if err := c.notice(ctx, &e, was.Status, e.Status); err != nil {
		return err
	}
	return c.follow(ctx, &e, was.Version, e.retry(c.now))
}

// follow adds a further attempt after one that is over.
func (c *change) follow(ctx context.Context, e *Execution, was int64, next Execution) error {
	e.Latest = false
	if next.Status.Pending() {
		t, err := c.touch(ctx, e.Tenant, e.Thing)
		if err != nil {
			return err
		}
		t.moved = true
	}
	n := c.count(e.Tenant, e.Job)
	*n.at(e.Status)--
	*n.at(next.Status)++
	if err := c.store.PutExecution(ctx, *e, was); err != nil {
		return err
	}
	return c.store.AddExecution(ctx, next)
}

// drop removes all of a thing's attempts at a job that is being deleted.
func (c *change) drop(ctx context.Context, e Execution) error {
	if err := c.notice(ctx, &e, e.Status, ""); err != nil {
		return err
	}
	c.gone = append(c.gone, e)
	return c.store.DropExecutions(ctx, access.Scope{Tenant: e.Tenant}, e.Job, e.Thing)
}

// job finds a job, once in a transaction.
func (c *change) job(ctx context.Context, tenant, id string) (*Job, error) {
	k := jobKey{tenant, id}
	if j := c.jobs[k]; j != nil {
		return j, nil
	}
	j, err := c.store.Job(ctx, access.Scope{Tenant: tenant}, id)
	if err != nil {
		return nil, err
	}
	c.jobs[k] = &j
	return &j, nil
}

// finish is the end of the transaction: the counts are written, and it is seen
// who has to be told.
func (c *change) finish(ctx context.Context) error {
	for k, n := range c.counts {
		if *n == (Counts{}) {
			continue
		}
		if err := c.store.CountJob(ctx, access.Scope{Tenant: k.tenant}, k.job, *n); err != nil && !errors.Is(err, ErrJobUnknown) {
			return err
		}
	}
	for _, k := range c.order {
		t := c.things[k]
		first, err := c.store.PendingExecutions(ctx, access.Scope{Tenant: k.tenant}, t.name, 1)
		if err != nil {
			return err
		}
		t.other = t.first != firstOf(first)
	}
	return nil
}
