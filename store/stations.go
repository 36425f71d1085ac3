package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/provisioner"
)

var _ provisioner.StationStore = (*DB)(nil)

func number(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

func (db *DB) codeMAC(c *provisioner.StationCode) []byte {
	// Attempts and redemption change by this program alone and only narrow the
	// code; what makes it valid is covered.
	return db.cfg.Seal.MAC("station_codes", c.Hash[:], []byte(c.Tenant), []byte(c.Station), []byte(c.Site), []byte(c.CreatedBy), number(millis(c.ExpiresAt)))
}

func (db *DB) stationMAC(s *provisioner.Station) []byte {
	return db.cfg.Seal.MAC("stations", []byte(s.Tenant), []byte(s.ID), []byte(s.Site), []byte(s.State), s.SPKI[:], number(millis(s.EnrolledAt)))
}

// CreateStationCode implements [provisioner.StationStore].
func (db *DB) CreateStationCode(ctx context.Context, c provisioner.StationCode) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var state string
		err := db.queryRow(ctx, `SELECT state FROM stations WHERE tenant = $1 AND id = $2`, c.Tenant, c.Station).Scan(&state)
		if err == nil {
			return provisioner.ErrStationExists.New("Station %s is %s.", c.Station, state)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = db.exec(ctx, `INSERT INTO station_codes (hash, tenant, station, site, created_by, expires_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			c.Hash[:], c.Tenant, c.Station, c.Site, c.CreatedBy, millis(c.ExpiresAt), db.codeMAC(&c))
		return err
	})
}

// Redeem implements [provisioner.StationStore].
func (db *DB) Redeem(ctx context.Context, hash [32]byte, station string, spki [32]byte, now time.Time) (st provisioner.Station, err error) {
	var refused error
	err = db.Atomic(ctx, func(ctx context.Context) error {
		refused = nil
		c := provisioner.StationCode{Hash: hash}
		var bound, mac []byte
		var expires, redeemed int64
		err := db.queryRow(ctx, `SELECT tenant, station, site, created_by, expires_at, attempts, spki, redeemed_at, mac FROM station_codes WHERE hash = $1`, hash[:]).
			Scan(&c.Tenant, &c.Station, &c.Site, &c.CreatedBy, &expires, &c.Attempts, &bound, &redeemed, &mac)
		if errors.Is(err, sql.ErrNoRows) {
			return provisioner.ErrStationCode.New("")
		}
		if err != nil {
			return err
		}
		c.ExpiresAt = timeOf(expires)
		if err := db.cfg.Seal.Verify(mac, "station_codes", c.Hash[:], []byte(c.Tenant), []byte(c.Station), []byte(c.Site), []byte(c.CreatedBy), number(expires)); err != nil {
			return ErrRowTampered.Wrap(err, "Table station_codes.")
		}
		if !db.clock.steady(now).Before(c.ExpiresAt) || c.Attempts >= provisioner.MaxCodeAttempts {
			return provisioner.ErrStationCode.New("")
		}
		if c.Station != station || bound != nil && !bytes.Equal(bound, spki[:]) {
			refused = provisioner.ErrStationCode.New("")
			_, err := db.exec(ctx, `UPDATE station_codes SET attempts = attempts + 1 WHERE hash = $1`, hash[:])
			return err // the attempt is kept, the refusal returned below
		}
		if bound != nil {
			st, err = db.Station(ctx, access.Scope{Tenant: c.Tenant}, station)
			return err
		}
		n, err := db.exec(ctx, `UPDATE station_codes SET spki = $1, redeemed_at = $2 WHERE hash = $3 AND spki IS NULL`, spki[:], millis(now), hash[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return errStale
		}
		st = provisioner.Station{ID: c.Station, Tenant: c.Tenant, Site: c.Site, State: "active", SPKI: spki, EnrolledAt: timeOf(millis(now))}
		n, err = db.exec(ctx, `INSERT INTO stations (tenant, id, site, state, spki, enrolled_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, id) DO NOTHING`,
			st.Tenant, st.ID, st.Site, st.State, st.SPKI[:], millis(st.EnrolledAt), db.stationMAC(&st))
		if err == nil && n == 0 {
			return provisioner.ErrStationExists.New("Station %s.", st.ID)
		}
		clear(txFrom(ctx).trust)
		return err
	})
	if err == nil {
		err = refused
	}
	return st, err
}

const stationColumns = `tenant, id, site, state, spki, enrolled_at, mac`

func (db *DB) scanStation(r row) (s provisioner.Station, err error) {
	var spki, mac []byte
	var enrolled int64
	if err := r.Scan(&s.Tenant, &s.ID, &s.Site, &s.State, &spki, &enrolled, &mac); err != nil {
		return s, err
	}
	copy(s.SPKI[:], spki)
	s.EnrolledAt = timeOf(enrolled)
	if err := db.cfg.Seal.Verify(mac, "stations", []byte(s.Tenant), []byte(s.ID), []byte(s.Site), []byte(s.State), spki, number(enrolled)); err != nil {
		return s, ErrRowTampered.Wrap(err, "Table stations, row %s.", s.ID)
	}
	return s, nil
}

// Station implements [provisioner.StationStore].
func (db *DB) Station(ctx context.Context, s access.Scope, id string) (provisioner.Station, error) {
	st, err := db.scanStation(db.queryRow(ctx, `SELECT `+stationColumns+` FROM stations WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return st, provisioner.ErrStationUnknown.New("%s.", id)
	}
	return st, err
}

// Stations implements [provisioner.StationStore].
func (db *DB) Stations(ctx context.Context, s access.Scope) (out []provisioner.Station, err error) {
	rows, err := db.query(ctx, `SELECT `+stationColumns+` FROM stations WHERE tenant = $1 ORDER BY id`, s.Tenant)
	err = each(rows, err, func(r row) error {
		st, err := db.scanStation(r)
		out = append(out, st)
		return err
	})
	return out, err
}

// RevokeStation implements [provisioner.StationStore].
func (db *DB) RevokeStation(ctx context.Context, s access.Scope, id string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		st, err := db.Station(ctx, s, id)
		if err != nil {
			return err
		}
		st.State = "revoked"
		_, err = db.exec(ctx, `UPDATE stations SET state = $1, mac = $2 WHERE tenant = $3 AND id = $4`, st.State, db.stationMAC(&st), s.Tenant, id)
		clear(txFrom(ctx).trust)
		return err
	})
}
