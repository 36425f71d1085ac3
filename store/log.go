package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"hallmark/ca/tlog"
)

// pendingLeaf is a log leaf whose index the end of the batch gives.
type pendingLeaf struct {
	storedLeaf
	// placed is called with the index inside the transaction, for rows that name it.
	placed func(tx *txn, index int64) error
}

// appendLeaf adds a leaf to the batch. placed may be nil.
func (tx *txn) appendLeaf(e tlog.Event, tenant, account, holder string, subject [32]byte, serial []byte, at time.Time, placed func(tx *txn, index int64) error) {
	tx.dirty = true
	l := storedLeaf{Leaf: tlog.Leaf{Type: e, Tenant: tenant, Account: account, Holder: holder, Subject: subject, At: at.Unix()}, serial: serial, at: millis(at)}
	l.Salt = tx.db.salt(&l)
	l.Entry = l.Compute()
	tx.leaves = append(tx.leaves, &pendingLeaf{storedLeaf: l, placed: placed})
}

// salt is keyed with what is beside the entry, so that the log, whose entries
// are public, also fixes a leaf's serial number and time; who has not the key
// learns nothing from an entry, as with a random salt.
func (db *DB) salt(l *storedLeaf) (salt [16]byte) {
	copy(salt[:], db.cfg.Seal.MAC("log_leaves", []byte(l.Type), []byte(l.Tenant), []byte(l.Account), []byte(l.Holder), l.Subject[:], l.serial, number(l.at)))
	return salt
}

// salted tells whether serial number and time of a leaf are those it was made with.
func (db *DB) salted(l *storedLeaf) bool { return db.salt(l) == l.Salt }

// placeLeaves gives the batch's leaves their indexes. The head row is moved at
// the end of a batch, so that indexes are dense and in commit order on every node.
func (tx *txn) placeLeaves(first int64) error {
	wake := false
	for i, l := range tx.leaves {
		l.Index = first + int64(i)
		if l.placed != nil {
			if err := l.placed(tx, l.Index); err != nil {
				return err
			}
		}
		wake = wake || l.Type != tlog.Issue
	}
	if wake {
		tx.after = append(tx.after, tx.db.waiters.wake)
	}
	return nil
}

func (tx *txn) leafSteps() []step {
	return tx.insertSteps(`log_leaves (idx, type, tenant, account, holder, subject, salt, entry, serial, at)`, "", "", 10, len(tx.leaves), func(i int, args []any) []any {
		l := tx.leaves[i]
		return append(args, l.Index, string(l.Type), l.Tenant, l.Account, l.Holder, l.Subject[:], l.Salt[:], l.Entry[:], l.serial, l.at)
	})
}

// The database as [tlog.Store].
var _ tlog.Store = (*Log)(nil)

// Head implements [tlog.Store].
func (db *DB) Head(ctx context.Context) (size int64, err error) {
	err = db.queryRow(ctx, `SELECT size FROM log_head WHERE id = 1`).Scan(&size)
	return size, err
}

// Entries implements [tlog.Store].
func (db *DB) Entries(ctx context.Context, from, to int64) ([][32]byte, error) {
	out := make([][32]byte, 0, to-from)
	rows, err := db.query(ctx, `SELECT idx, entry FROM log_leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx`, from, to)
	err = each(rows, err, func(r row) error {
		var idx int64
		var entry []byte
		if err := r.Scan(&idx, &entry); err != nil {
			return err
		}
		if idx != from+int64(len(out)) || len(entry) != 32 {
			return ErrRowTampered.New("Table log_leaves, leaf %d is missing or damaged.", from+int64(len(out)))
		}
		out = append(out, [32]byte(entry))
		return nil
	})
	if err == nil && int64(len(out)) != to-from {
		err = ErrRowTampered.New("Table log_leaves, leaf %d is missing.", from+int64(len(out)))
	}
	return out, err
}

// Lost implements [tlog.Store].
func (db *DB) Lost(ctx context.Context, from, to int64) (out []int64, err error) {
	rows, err := db.query(ctx, `SELECT idx FROM log_leaves WHERE type = 'lost' AND type <> 'issue' AND idx >= $1 AND idx < $2 ORDER BY idx`, from, to)
	err = each(rows, err, func(r row) error {
		var i int64
		err := r.Scan(&i)
		out = append(out, i)
		return err
	})
	return out, err
}

// Tile implements [tlog.Store].
func (db *DB) Tile(ctx context.Context, level int, index int64) (hashes []byte, err error) {
	err = db.queryRow(ctx, `SELECT hashes FROM log_tiles WHERE level = $1 AND idx = $2`, level, index).Scan(&hashes)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return hashes, err
}

// Integrated implements [tlog.Store].
func (db *DB) Integrated(ctx context.Context) (size int64, root [32]byte, note []byte, err error) {
	var r []byte
	err = db.queryRow(ctx, `SELECT size, root, note FROM log_checkpoint WHERE id = 1`).Scan(&size, &r, &note)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, root, nil, nil
	}
	copy(root[:], r)
	return size, root, note, err
}

// Commit of tiles implements [tlog.Store]; see [Log].
func (l *Log) Commit(ctx context.Context, oldSize int64, tiles []tlog.Tile, size int64, root [32]byte, note []byte) error {
	return l.Atomic(ctx, func(ctx context.Context) error {
		n, err := l.exec(ctx, `UPDATE log_checkpoint SET size = $1, root = $2, note = $3 WHERE id = 1 AND size = $4`, size, root[:], note, oldSize)
		if err != nil {
			return err
		}
		if n == 0 && oldSize == 0 {
			n, err = l.exec(ctx, `INSERT INTO log_checkpoint (id, size, root, note) VALUES (1, $1, $2, $3) ON CONFLICT (id) DO NOTHING`, size, root[:], note)
			if err != nil {
				return err
			}
		}
		if n == 0 {
			return tlog.ErrMoved.New("")
		}
		for _, t := range tiles {
			if _, err := l.exec(ctx, `INSERT INTO log_tiles (level, idx, hashes) VALUES ($1, $2, $3) ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes`, t.Level, t.Index, t.Hashes); err != nil {
				return err
			}
		}
		return nil
	})
}

// Log is the database as the store of the transparency log. It is a type of its
// own since both units and tiles are "committed".
type Log struct{ *DB }

// Log gives the log's side of the database.
func (db *DB) Log() *Log { return &Log{db} }

// TrustChanged is closed when this process appends a leaf that is not of
// issuance: a revocation, hold, release, void or block. Ask again for the next.
func (db *DB) TrustChanged() <-chan struct{} { return db.waiters.wait() }
