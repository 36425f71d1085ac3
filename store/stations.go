package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/provisioner"
)

var _ provisioner.StationStore = (*DB)(nil)

func number(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

func (db *DB) codeMAC(c *provisioner.StationCode) []byte {
	var spki []byte
	if c.SPKI != nil {
		spki = c.SPKI[:]
	}
	return db.cfg.Seal.MAC("station_codes", c.Hash[:], []byte(c.Tenant), []byte(c.Station), []byte(c.Site), []byte(c.CreatedBy), number(millis(c.ExpiresAt)),
		number(int64(c.Attempts)), spki, number(millis(c.RedeemedAt)))
}

const codeColumns = `hash, tenant, station, site, created_by, expires_at, attempts, spki, redeemed_at, mac`

// scanCode reads a code and its MAC.
func (db *DB) scanCode(r row) (c provisioner.StationCode, mac []byte, err error) {
	var hash, spki []byte
	var expires, redeemed int64
	if err := r.Scan(&hash, &c.Tenant, &c.Station, &c.Site, &c.CreatedBy, &expires, &c.Attempts, &spki, &redeemed, &mac); err != nil {
		return c, nil, err
	}
	copy(c.Hash[:], hash)
	c.ExpiresAt, c.RedeemedAt = timeOf(expires), timeOf(redeemed)
	if spki != nil {
		c.SPKI = new([32]byte)
		copy(c.SPKI[:], spki)
	}
	if len(hash) != len(c.Hash) || spki != nil && len(spki) != len(c.SPKI) || db.cfg.Seal.Verify(mac, "station_codes", hash, []byte(c.Tenant), []byte(c.Station), []byte(c.Site),
		[]byte(c.CreatedBy), number(expires), number(int64(c.Attempts)), spki, number(redeemed)) != nil {
		return c, mac, ErrRowTampered.New("Table station_codes, a code of station %s.", c.Station)
	}
	return c, mac, nil
}

func codeKey(c *provisioner.StationCode) string {
	return pair(c.Tenant, c.Station) + "/" + hex.EncodeToString(c.Hash[:8])
}

// moveCode changes what a code remembers of its use.
func (db *DB) moveCode(ctx context.Context, c *provisioner.StationCode, old []byte) error {
	var spki []byte
	if c.SPKI != nil {
		spki = c.SPKI[:]
	}
	mac := db.codeMAC(c)
	n, err := db.exec(ctx, `UPDATE station_codes SET attempts = $1, spki = $2, redeemed_at = $3, mac = $4 WHERE hash = $5 AND mac = $6`, c.Attempts, spki, millis(c.RedeemedAt), mac, c.Hash[:], old)
	if err == nil && n == 0 {
		return errStale
	}
	txFrom(ctx).reseal("station_codes", codeKey(c), old, mac)
	return err
}

func (db *DB) stationMAC(s *provisioner.Station) []byte {
	return db.cfg.Seal.MAC("stations", []byte(s.Tenant), []byte(s.ID), []byte(s.Site), []byte(s.State), s.SPKI[:], number(millis(s.EnrolledAt)))
}

// CreateStationCode implements [provisioner.StationStore].
func (db *DB) CreateStationCode(ctx context.Context, c provisioner.StationCode) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		st, err := db.Station(ctx, access.Scope{Tenant: c.Tenant}, c.Station)
		if err == nil {
			err = db.replaceable(ctx, &st, db.now())
		}
		if err != nil && !errors.Is(err, provisioner.ErrStationUnknown) {
			return err
		}
		mac := db.codeMAC(&c)
		_, err = db.exec(ctx, `INSERT INTO station_codes (hash, tenant, station, site, created_by, expires_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			c.Hash[:], c.Tenant, c.Station, c.Site, c.CreatedBy, millis(c.ExpiresAt), mac)
		txFrom(ctx).reseal("station_codes", codeKey(&c), nil, mac)
		return err
	})
}

// Redeem implements [provisioner.StationStore].
func (db *DB) Redeem(ctx context.Context, hash [32]byte, station string, spki [32]byte, now time.Time) (st provisioner.Station, err error) {
	var refused error
	err = db.Atomic(ctx, func(ctx context.Context) error {
		refused = nil
		c, mac, err := db.scanCode(db.queryRow(ctx, `SELECT `+codeColumns+` FROM station_codes WHERE hash = $1`, hash[:]))
		if errors.Is(err, sql.ErrNoRows) {
			return provisioner.ErrStationCode.New("")
		}
		if err != nil {
			return err
		}
		// Whoever redeemed it may come again, however many others tried after it (A40).
		mine := c.SPKI != nil && *c.SPKI == spki && c.Station == station
		if !db.clock.steady(now).Before(c.ExpiresAt) || c.Attempts >= provisioner.MaxCodeAttempts && !mine {
			return provisioner.ErrStationCode.New("")
		}
		if c.Station != station || c.SPKI != nil && *c.SPKI != spki {
			refused = provisioner.ErrStationCode.New("")
			c.Attempts++
			return db.moveCode(ctx, &c, mac) // the attempt is kept, the refusal returned below
		}
		former, err := db.Station(ctx, access.Scope{Tenant: c.Tenant}, station)
		if err != nil && !errors.Is(err, provisioner.ErrStationUnknown) {
			return err
		}
		known := err == nil
		if c.SPKI != nil {
			if st = former; !known || st.SPKI != spki { // another took its place since
				return provisioner.ErrStationCode.New("")
			}
			return nil
		}
		st = provisioner.Station{ID: c.Station, Tenant: c.Tenant, Site: c.Site, State: "active", SPKI: spki, EnrolledAt: timeOf(millis(now))}
		made := db.stationMAC(&st)
		var n int64
		var old []byte
		if known {
			if err := db.replaceable(ctx, &former, now); err != nil {
				return err
			}
			if err := db.neverUsed(ctx, &st); err != nil {
				return err
			}
			access.RecordFrom(ctx).Note(func(e *access.TrailEntry) {
				e.About = map[string]string{"key": hex.EncodeToString(spki[:]), "replaces": hex.EncodeToString(former.SPKI[:]), "was": former.State}
			})
			old = db.stationMAC(&former)
			n, err = db.exec(ctx, `UPDATE stations SET site = $1, state = $2, spki = $3, enrolled_at = $4, mac = $5 WHERE tenant = $6 AND id = $7 AND mac = $8`,
				st.Site, st.State, st.SPKI[:], millis(st.EnrolledAt), made, st.Tenant, st.ID, old)
		} else {
			n, err = db.exec(ctx, `INSERT INTO stations (tenant, id, site, state, spki, enrolled_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, id) DO NOTHING`,
				st.Tenant, st.ID, st.Site, st.State, st.SPKI[:], millis(st.EnrolledAt), made)
		}
		if err == nil && n == 0 {
			return errStale // another was faster
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("stations", pair(st.Tenant, st.ID), old, made)
		c.SPKI, c.RedeemedAt = &spki, now
		if err := db.moveCode(ctx, &c, mac); err != nil {
			return err
		}
		err = db.endCodes(ctx, access.Scope{Tenant: st.Tenant}, st.ID)
		clear(txFrom(ctx).trust)
		return err
	})
	if err == nil {
		err = refused
	}
	return st, err
}

// replaceable refuses to make a station anew that could still come back as it was.
func (db *DB) replaceable(ctx context.Context, st *provisioner.Station, now time.Time) error {
	if st.State == "active" && now.Before(st.EnrolledAt.Add(provisioner.CodeLife)) {
		return provisioner.ErrStationExists.New("Station %s has just enrolled.", st.ID) // or is about to get its certificate
	}
	holder := provisioner.StationHolder(st.ID)
	block, blocked, err := db.BlockOf(ctx, access.Scope{Tenant: st.Tenant}, holder)
	if err != nil {
		return err
	}
	if blocked {
		return provisioner.ErrStationExists.New("The name %s was blocked by %s at %s, for good.", st.ID, block.By, block.At.Format(time.RFC3339))
	}
	var live int64
	err = db.queryRow(ctx, `SELECT COUNT(*) FROM reservations r LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.tenant = $1 AND r.holder = $2 AND r.not_after > $3 AND (v.serial IS NULL OR v.released_at <> 0 OR v.reason = $4)`,
		st.Tenant, fold(holder), millis(now), holdReason).Scan(&live)
	if err == nil && live > 0 {
		return provisioner.ErrStationExists.New("Station %s is %s; certificates that are not over and not revoked for good: %d.", st.ID, st.State, live)
	}
	return err
}

// neverUsed refuses a key that the station had before: what it was certified for is
// over or revoked (A14).
func (db *DB) neverUsed(ctx context.Context, st *provisioner.Station) error {
	var one int
	err := db.queryRow(ctx, `SELECT 1 FROM reservations WHERE tenant = $1 AND holder = $2 AND spki = $3 LIMIT 1`, st.Tenant, fold(provisioner.StationHolder(st.ID)), st.SPKI[:]).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = provisioner.ErrStationKey.New("Station %s.", st.ID)
	}
	return err
}

// endCodes makes the codes of a station that nobody redeemed worthless: who has one
// from before must not undo what was decided since. One that was tampered with is
// worthless as it is, and stops nothing here.
func (db *DB) endCodes(ctx context.Context, s access.Scope, id string) error {
	type code struct {
		provisioner.StationCode
		mac []byte
	}
	var open []code
	rows, err := db.query(ctx, `SELECT `+codeColumns+` FROM station_codes WHERE tenant = $1 AND station = $2 AND redeemed_at = 0 AND attempts < $3`, s.Tenant, id, provisioner.MaxCodeAttempts)
	err = each(rows, err, func(r row) error {
		c, mac, err := db.scanCode(r)
		if errors.Is(err, ErrRowTampered) {
			return nil
		}
		open = append(open, code{c, mac})
		return err
	})
	for i := 0; err == nil && i < len(open); i++ {
		open[i].Attempts = provisioner.MaxCodeAttempts
		err = db.moveCode(ctx, &open[i].StationCode, open[i].mac)
	}
	return err
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
		old := db.stationMAC(&st)
		st.State = "revoked"
		mac := db.stationMAC(&st)
		n, err := db.exec(ctx, `UPDATE stations SET state = $1, mac = $2 WHERE tenant = $3 AND id = $4 AND mac = $5`, st.State, mac, s.Tenant, id, old)
		if err == nil && n == 0 {
			return errStale
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("stations", pair(s.Tenant, id), old, mac)
		clear(txFrom(ctx).trust)
		return db.endCodes(ctx, s, id)
	})
}
