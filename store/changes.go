package store

import (
	"context"
	"time"

	"hallmark/fleet/registry"
	"hallmark/migrations"
)

// OnRegistryChange implements [registry.Store].
func (db *DB) OnRegistryChange(f func(registry.Change)) {
	db.listenMu.Lock()
	defer db.listenMu.Unlock()
	db.listeners = append(db.listeners, f)
}

func (db *DB) announce(c registry.Change) {
	db.listenMu.RLock()
	defer db.listenMu.RUnlock()
	for _, f := range db.listeners {
		f(c)
	}
}

// tellRegistry tells the listeners once the transaction of ctx is durable, and
// other nodes by a row. A row that cannot be written breaks the transaction.
func (db *DB) tellRegistry(ctx context.Context, c registry.Change) {
	tx := txFrom(ctx)
	tx.after = append(tx.after, func() { db.announce(c) })
	if db.engine == migrations.Postgres {
		_, _ = db.exec(ctx, `INSERT INTO registry_events (tenant, certificate, thing) VALUES ($1, $2, $3)`, c.Tenant, c.Certificate, c.Thing)
	}
}

// Alone tells that no other process writes to the database.
func (db *DB) Alone() bool { return db.engine == migrations.SQLite }

const (
	eventOverlap = 4096      // rows read again, since numbers are given before commits
	eventsKept   = 64 * 1024 // a node that was away for longer looks at everything anew
)

// FollowRegistry tells the listeners of this process what other nodes changed,
// until ctx ends. Only PostgreSQL has other nodes; elsewhere it returns at once.
func (db *DB) FollowRegistry(ctx context.Context, every time.Duration) {
	if db.engine != migrations.Postgres {
		return
	}
	if every <= 0 {
		every = 250 * time.Millisecond
	}
	f := follower{db: db, seen: map[int64]bool{}}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := f.poll(ctx); err != nil && ctx.Err() == nil {
			db.log.WarnContext(ctx, "changes of other nodes cannot be read", "error", err)
		}
		if n%256 == 255 {
			err := db.Atomic(ctx, func(ctx context.Context) error {
				_, err := db.exec(ctx, `DELETE FROM registry_events WHERE id < $1`, f.high-eventsKept)
				return err
			})
			if err != nil && ctx.Err() == nil {
				db.log.WarnContext(ctx, "old changes cannot be removed", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follower is how far one process has read.
type follower struct {
	db   *DB
	high int64
	seen map[int64]bool // of the last eventOverlap
	open bool           // it has read before
}

func (f *follower) poll(ctx context.Context) error {
	var oldest, newest int64
	if err := f.db.queryRow(ctx, `SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) FROM registry_events`).Scan(&oldest, &newest); err != nil {
		return err
	}
	if !f.open || oldest > f.high+1 {
		// What was before, whoever asks from now on sees by itself; what was missed
		// can have been anything.
		f.open, f.high = true, newest
		f.db.announce(registry.Change{})
	}
	rows, err := f.db.query(ctx, `SELECT id, tenant, certificate, thing FROM registry_events WHERE id > $1 ORDER BY id`, f.high-eventOverlap)
	err = each(rows, err, func(r row) error {
		var id int64
		var c registry.Change
		if err := r.Scan(&id, &c.Tenant, &c.Certificate, &c.Thing); err != nil || f.seen[id] {
			return err
		}
		f.seen[id], f.high = true, max(f.high, id)
		f.db.announce(c)
		return nil
	})
	for id := range f.seen {
		if id <= f.high-eventOverlap {
			delete(f.seen, id)
		}
	}
	return err
}
