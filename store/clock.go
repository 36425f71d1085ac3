package store

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"time"
)

// How far the clock may stand from the mark before nothing is issued any more
// (A74, S38). The mark is the latest time at which this database was written.
const (
	ClockBack    = 10 * time.Minute
	ClockForward = 30 * 24 * time.Hour
)

// markStep is how often the mark is moved at most.
const markStep = time.Second

// clock is the mark as this process knows it, in stored milliseconds.
type clock struct {
	high          atomic.Int64 // 0: there is none yet
	tried         atomic.Int64 // when moving it was last tried
	back, forward int64
}

func (c *clock) init(cfg Config) {
	if cfg.ClockBack == 0 {
		cfg.ClockBack = ClockBack
	}
	if cfg.ClockForward == 0 {
		cfg.ClockForward = ClockForward
	}
	c.back, c.forward = cfg.ClockBack.Milliseconds(), cfg.ClockForward.Milliseconds()
}

// openClock reads the mark; with AcceptClock it is set to what the clock shows.
func (db *DB) openClock(ctx context.Context) error {
	if db.cfg.AcceptClock {
		was := timeOf(db.clock.high.Load())
		err := db.Atomic(ctx, func(ctx context.Context) error {
			now := millis(db.now())
			_, err := db.exec(ctx, `INSERT INTO clock_high (id, at, mac) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET at = excluded.at, mac = excluded.mac`, now, db.clockMAC(now))
			return err
		})
		if err != nil {
			return err
		}
		db.log.WarnContext(ctx, "the clock was accepted as it is", "mark_was", was)
	}
	at, err := db.clockMark(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	db.clock.high.Store(at)
	return err
}

func (db *DB) clockMAC(at int64) []byte { return db.cfg.Seal.MAC("clock_high", number(at)) }

// clockMark reads the row; sql.ErrNoRows if nothing was ever written.
func (db *DB) clockMark(ctx context.Context) (at int64, err error) {
	var mac []byte
	if err := db.queryRow(ctx, `SELECT at, mac FROM clock_high WHERE id = 1`).Scan(&at, &mac); err != nil {
		return 0, err
	}
	if err := db.cfg.Seal.Verify(mac, "clock_high", number(at)); err != nil {
		return 0, ErrRowTampered.Wrap(err, "Table clock_high.")
	}
	return at, nil
}

// CheckClock refuses a clock that cannot be right: it shows a time long before
// something that was written, or one that no running service would have
// reached. Issuance asks it inside the reservation, lists before they are
// stored.
func (db *DB) CheckClock() error {
	if db.cfg.SecondClock != nil {
		if err := db.cfg.SecondClock(); err != nil {
			return err
		}
	}
	high, now := db.clock.high.Load(), millis(db.now())
	switch {
	case high == 0:
		return nil
	case now < high-db.clock.back:
		return ErrClockBehind.New("It shows %s; the database was written at %s.", stamp(now), stamp(high)).After(time.Minute)
	case now > high+db.clock.forward:
		return ErrClockAhead.New("It shows %s; the database was last written at %s.", stamp(now), stamp(high)).After(time.Minute)
	}
	return nil
}

func stamp(ms int64) string { return timeOf(ms).Format(time.RFC3339) }

// Steady is the time that never stands before the mark: what ends at a time,
// such as a token, does not come back when the clock goes back.
func (db *DB) Steady() time.Time { return db.clock.steady(db.now()) }

func (c *clock) steady(now time.Time) time.Time {
	if high := timeOf(c.high.Load()); now.Before(high) {
		return high
	}
	return now
}

// KeepClock moves the mark while nothing else is written, so that a quiet
// service does not take its own silence for a jump. Call it now and then.
func (db *DB) KeepClock(ctx context.Context) error {
	return db.Atomic(ctx, func(context.Context) error { return nil })
}

// clockDue tells whether the mark was not moved for a second.
func (tx *txn) clockDue() bool {
	d := millis(tx.db.now()) - tx.db.clock.tried.Load()
	return d <= -markStep.Milliseconds() || d >= markStep.Milliseconds()
}

// moveClock is the last statement of a batch, at most once a second. The row is
// the last lock that a batch takes, so nobody waits in a ring. A clock that is
// too far ahead moves nothing.
func (tx *txn) moveClock() error {
	c, now := &tx.db.clock, millis(tx.db.now())
	if !tx.clockDue() {
		return nil
	}
	c.tried.Store(now)
	n, err := tx.exec(`UPDATE clock_high SET at = $1, mac = $2 WHERE id = 1 AND at < $1 AND at >= $3`, now, tx.db.clockMAC(now), now-c.forward)
	if err != nil {
		return err
	}
	mark := now
	if n == 0 { // the first batch of all, or another node was here, or the clock is wrong
		mark, err = tx.db.clockMark(context.WithValue(tx.ctx, txKey{}, tx))
		if errors.Is(err, sql.ErrNoRows) {
			mark = now
			_, err = tx.exec(`INSERT INTO clock_high (id, at, mac) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING`, now, tx.db.clockMAC(now))
		}
		if err != nil {
			return err
		}
	}
	tx.after = append(tx.after, func() { c.high.Store(mark) })
	return nil
}
