package store

import (
	"context"

	"hallmark/internal/fault"
)

// sealedRow is a row with a version of a sealed table.
type sealedRow struct {
	table, name string // the name is the seal's
	mac         []byte
	find        string // selects the MAC of the row that there is
	key         []any
	changed     *fault.Definition // somebody else was faster
}

// put writes the row: insert if was is 0, which must do nothing on conflict, else
// update, which must ask for the version was.
func (db *DB) put(ctx context.Context, r sealedRow, was int64, insert string, values []any, update string, changes []any) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, r.find, r.key...)
		if err != nil {
			return err
		}
		if (was == 0) != (old == nil) {
			return r.changed.New("")
		}
		query, args := insert, values
		if was != 0 {
			query, args = update, changes
		}
		n, err := db.exec(ctx, query, args...)
		if err == nil && n != 1 {
			err = r.changed.New("")
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal(r.table, r.name, old, r.mac)
		return nil
	})
}

// drop removes the row, and tells whether there was one.
func (db *DB) drop(ctx context.Context, r sealedRow, remove string) (dropped bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, r.find, r.key...)
		if dropped = old != nil; err != nil || old == nil {
			return err
		}
		if _, err := db.exec(ctx, remove, r.key...); err != nil {
			return err
		}
		txFrom(ctx).reseal(r.table, r.name, old, nil)
		return nil
	})
	return dropped, err
}
