package store

import (
	"context"

	"hallmark/broker"
)

var _ broker.ClusterStore = (*DB)(nil)

// sessionsOf selects what one node has.
const sessionsOf = `(tenant, client) IN (SELECT tenant, client FROM broker_sessions WHERE node = $1)`

// Join implements [broker.ClusterStore].
func (db *DB) Join(ctx context.Context, m broker.Member) (list []broker.StoredSession, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		if _, err := db.exec(ctx, `DELETE FROM broker_nodes WHERE name = $1`, m.Name); err != nil {
			return err
		}
		if _, err := db.exec(ctx, `INSERT INTO broker_nodes (node, name, beat) VALUES ($1, $2, $3)`, m.Node, m.Name, m.Beat); err != nil {
			return err
		}
		// The node is new, so what it has now are the orphans.
		if _, err := db.exec(ctx, `UPDATE broker_sessions SET node = $1 WHERE node NOT IN (SELECT node FROM broker_nodes)`, m.Node); err != nil {
			return err
		}
		list, err = db.sessions(ctx, sessionsOf, m.Node)
		return err
	})
	return list, err
}

// Members implements [broker.ClusterStore].
func (db *DB) Members(ctx context.Context) (out []broker.Member, err error) {
	found, err := db.query(ctx, `SELECT node, name, beat FROM broker_nodes ORDER BY node`)
	err = each(found, err, func(r row) error {
		var m broker.Member
		err := r.Scan(&m.Node, &m.Name, &m.Beat)
		out = append(out, m)
		return err
	})
	return out, err
}

// Fence implements [broker.ClusterStore]. The row of the node is the lock: a change
// of that node that is under way either was before, and the beat is another, or
// finds no row and fails.
func (db *DB) Fence(ctx context.Context, dead broker.Member, heir string) (list []broker.StoredSession, fenced bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		list, fenced = nil, false
		if err := db.applyOne(ctx, broker.Guard{Node: heir}); err != nil {
			return err
		}
		n, err := db.exec(ctx, `DELETE FROM broker_nodes WHERE node = $1 AND beat = $2`, dead.Node, dead.Beat)
		if err != nil || n == 0 {
			return err
		}
		if list, err = db.sessions(ctx, sessionsOf, dead.Node); err != nil {
			return err
		}
		_, err = db.exec(ctx, `UPDATE broker_sessions SET node = $1 WHERE node = $2`, heir, dead.Node)
		fenced = err == nil
		return err
	})
	if err != nil {
		return nil, false, err
	}
	for i := range list {
		list[i].Node = heir
	}
	return list, fenced, nil
}

// Leave implements [broker.ClusterStore].
func (db *DB) Leave(ctx context.Context, node string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `UPDATE broker_nodes SET beat = $1 WHERE node = $2`, int64(broker.Left), node)
		return err
	})
}

// Take implements [broker.ClusterStore].
func (db *DB) Take(ctx context.Context, tenant, client, from, to string) (s *broker.StoredSession, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		s = nil
		if err := db.applyOne(ctx, broker.Guard{Node: to}); err != nil {
			return err
		}
		n, err := db.exec(ctx, `UPDATE broker_sessions SET node = $1 WHERE tenant = $2 AND client = $3 AND node IN ($4, $5)`, to, tenant, client, from, to)
		if err != nil {
			return err
		}
		list, err := db.sessions(ctx, `tenant = $1 AND client = $2`, tenant, client)
		switch {
		case err != nil || len(list) == 0:
			return err
		case n == 0:
			return broker.ErrElsewhere.New("")
		}
		s = &list[0]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// RetainedAt implements [broker.ClusterStore].
func (db *DB) RetainedAt(ctx context.Context, tenant, topic string) (out *broker.PutRetained, err error) {
	err = db.retained(ctx, func(p broker.PutRetained) error {
		out = &p
		return nil
	}, `tenant = $1 AND topic = $2`, tenant, topic)
	return out, err
}
