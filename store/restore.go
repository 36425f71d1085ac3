package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hallmark/ca"
	"hallmark/ca/tlog"
)

// Restored is one return of the database from a backup.
type Restored struct {
	ID       string `json:"id"`
	Accepted bool   `json:"-"`
	// Backup is the id of the backup, "" for a copy of files that somebody put back.
	Backup     string    `json:"backup"`
	MadeAt     time.Time `json:"made_at"` // of the backup
	RestoredAt time.Time `json:"restored_at"`
	AcceptedAt time.Time `json:"accepted_at"`
	Approvers  []string  `json:"approvers"`
	// Log is how many leaves it had.
	Log int64 `json:"log"`
	// Floors are the numbers above which lists and filters go on; every list of an
	// authority that is not named goes on above Above.
	Floors []ListFact `json:"floors"`
	Above  int64      `json:"above"`
	// Void counts what was handed out before and can no longer be used.
	Void map[string]int `json:"void"`
	// Entered and Unknown are the revocations that were entered again, and the
	// revoked serial numbers that the database does not know.
	Entered int      `json:"entered"`
	Unknown []string `json:"unknown"`
	Version int64    `json:"-"`
}

const restoredColumns = `id, state, body, version, mac`

const (
	restorePending  = "pending"
	restoreAccepted = "accepted"
)

func (db *DB) restoredMAC(id, state string, body []byte, version int64) []byte {
	return db.cfg.Seal.MAC("restores", []byte(id), []byte(state), body, number(version))
}

func (db *DB) scanRestored(r row) (v Restored, mac []byte, err error) {
	var id, state string
	var body []byte
	if err := r.Scan(&id, &state, &body, &v.Version, &mac); err != nil {
		return v, nil, err
	}
	err = json.Unmarshal(body, &v)
	if err == nil && (v.ID != id || !hmac.Equal(mac, db.restoredMAC(id, state, body, v.Version))) {
		err = errors.New("the MAC is another's")
	}
	v.ID, v.Accepted = id, state == restoreAccepted
	if err != nil {
		return v, mac, ErrRowTampered.Wrap(err, "Table restores, row %s.", id)
	}
	return v, mac, nil
}

// PutRestored writes a return from a backup, or what became of it.
func (db *DB) PutRestored(ctx context.Context, v Restored) error {
	was := v.Version
	v.Version++
	state := restorePending
	if v.Accepted {
		state = restoreAccepted
	}
	body, err := json.Marshal(&v)
	if err != nil {
		return err
	}
	mac := db.restoredMAC(v.ID, state, body, v.Version)
	return db.put(ctx, sealedRow{table: "restores", name: v.ID, mac: mac, find: `SELECT mac FROM restores WHERE id = $1`, key: []any{v.ID}, changed: ErrChanged}, was,
		`INSERT INTO restores (`+restoredColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING`, []any{v.ID, state, body, v.Version, mac},
		`UPDATE restores SET state = $1, body = $2, version = $3, mac = $4 WHERE id = $5 AND version = $6`, []any{state, body, v.Version, mac, v.ID, was})
}

// Restores lists them all. A row that somebody else wrote is an error: it could
// hide that one is pending.
func (db *DB) Restores(ctx context.Context) (out []Restored, err error) {
	rows, err := db.query(ctx, `SELECT `+restoredColumns+` FROM restores ORDER BY id`)
	err = each(rows, err, func(r row) error {
		v, _, err := db.scanRestored(r)
		out = append(out, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s, err := db.sealed(ctx, "restores"); err == nil && s.Rows != int64(len(out)) {
		return nil, ErrRowTampered.New("Table restores has %d rows; %d were written.", len(out), s.Rows)
	}
	return out, nil
}

// ListFloor is the number above which the next list of an authority and shard
// has to be, because the database may have forgotten lists.
func (db *DB) ListFloor(ctx context.Context) (func(authority string, shard int) int64, error) {
	all, err := db.Restores(ctx)
	if err != nil {
		return nil, err
	}
	above := int64(0)
	floors := map[string]int64{}
	for _, r := range all {
		above = max(above, r.Above)
		for _, f := range r.Floors {
			k := listKey(f.Authority, f.Shard)
			floors[k] = max(floors[k], f.Number)
		}
	}
	return func(authority string, shard int) int64 {
		if n, ok := floors[listKey(authority, shard)]; ok {
			return n
		}
		return above
	}, nil
}

// VoidTokens ends everything that is used once and was handed out before the
// backup: of what is open in it, nobody knows whether it was used since (A77).
func (db *DB) VoidTokens(ctx context.Context, now time.Time) (map[string]int, error) {
	void := map[string]int{}
	err := db.Atomic(ctx, func(ctx context.Context) error {
		clear(void)
		at := millis(now)
		if err := db.voidCodes(ctx, at, void); err != nil {
			return err
		}
		if err := db.voidPasswords(ctx, at, void); err != nil {
			return err
		}
		return db.voidGrants(ctx, at, void)
	})
	return void, err
}

func (db *DB) voidCodes(ctx context.Context, at int64, void map[string]int) error {
	type code struct {
		key  string
		hash []byte
		old  []byte
		mac  []byte
	}
	var all []code
	rows, err := db.query(ctx, `SELECT `+codeColumns+` FROM station_codes WHERE expires_at > $1`, at)
	if err := each(rows, err, func(r row) error {
		c, mac, err := db.scanCode(r)
		if err != nil {
			return err
		}
		// A redeemed one lets its station come again; that ends too, since the
		// station of the other history may be another one.
		key := codeKey(&c)
		c.ExpiresAt = timeOf(at)
		all = append(all, code{key, c.Hash[:], mac, db.codeMAC(&c)})
		return nil
	}); err != nil {
		return err
	}
	for _, c := range all {
		if _, err := db.exec(ctx, `UPDATE station_codes SET expires_at = $1, mac = $2 WHERE hash = $3`, at, c.mac, c.hash); err != nil {
			return err
		}
		txFrom(ctx).reseal("station_codes", c.key, c.old, c.mac)
		void["station codes"]++
	}
	return nil
}

func (db *DB) voidPasswords(ctx context.Context, at int64, void map[string]int) error {
	type password struct{ key, id, old, mac string }
	var all []password
	rows, err := db.query(ctx, `SELECT `+passwordColumns+` FROM enrol_passwords WHERE expires_at > $1`, at)
	if err := each(rows, err, func(r row) error {
		p, mac, err := db.scanPassword(r)
		if err != nil {
			return err
		}
		p.ExpiresAt = timeOf(at)
		all = append(all, password{pair(p.Tenant, p.ID), p.ID, string(mac), string(db.passwordMAC(&p))})
		return nil
	}); err != nil {
		return err
	}
	for _, p := range all {
		if _, err := db.exec(ctx, `UPDATE enrol_passwords SET expires_at = $1, mac = $2 WHERE id = $3`, at, []byte(p.mac), p.id); err != nil {
			return err
		}
		txFrom(ctx).reseal("enrol_passwords", p.key, []byte(p.old), []byte(p.mac))
		void["enrolment passwords"]++
	}
	return nil
}

// voidGrants ends what claims have outstanding; their certificates are revoked
// by the round that ends grants whose time is over.
func (db *DB) voidGrants(ctx context.Context, at int64, void map[string]int) error {
	for {
		n := 0
		rows, err := db.query(ctx, `SELECT `+grantStoreColumns+` FROM registration_grants WHERE expires_at > $1 AND state IN ('reserved', 'pending') ORDER BY tenant, holder LIMIT 1000`, at)
		type moved struct {
			key, tenant, holder string
			version             int64
			old, mac            []byte
		}
		var all []moved
		if err := each(rows, err, func(r row) error {
			g, err := db.scanClaimGrant(r)
			if err != nil {
				return err
			}
			m := moved{key: pair(g.Tenant, g.Holder), tenant: g.Tenant, holder: g.Holder, old: db.cfg.Seal.MAC("registration_grants", grantFields(&g)...)}
			g.ExpiresAt = timeOf(at)
			g.Version++
			m.version, m.mac = g.Version, db.cfg.Seal.MAC("registration_grants", grantFields(&g)...)
			all = append(all, m)
			return nil
		}); err != nil {
			return err
		}
		for _, m := range all {
			if _, err := db.exec(ctx, `UPDATE registration_grants SET expires_at = $1, version = $2, mac = $3 WHERE tenant = $4 AND holder = $5`, at, m.version, m.mac, m.tenant, m.holder); err != nil {
				return err
			}
			txFrom(ctx).reseal("registration_grants", m.key, m.old, m.mac)
			n++
		}
		void["claims"] += n
		if n < 1000 {
			return nil
		}
	}
}

// LastCertificates gives of each authority when it last issued; for people who
// look for what is missing.
func (db *DB) LastCertificates(ctx context.Context) (last time.Time, n int64, err error) {
	var at sql.NullInt64
	err = db.queryRow(ctx, `SELECT MAX(issued_at), COUNT(*) FROM certificates`).Scan(&at, &n)
	return timeOf(at.Int64), n, err
}

// LiveTokens counts people's tokens that are good: whoever was shut out after the
// backup is let in again.
func (db *DB) LiveTokens(ctx context.Context, now time.Time) (names []string, err error) {
	rows, err := db.query(ctx, `SELECT `+principalColumns+` FROM principals WHERE disabled_at = 0 AND expires_at > $1 ORDER BY tenant, name`, millis(now))
	err = each(rows, err, func(r row) error {
		p, err := db.scanPrincipal(r)
		names = append(names, p.Tenant+"/"+p.Name)
		return err
	})
	return names, err
}

// StoryOf finds a serial number of any tenant, for lists, which name none.
func (db *DB) StoryOf(ctx context.Context, authority string, serial ca.Serial) (tenant string, known bool, err error) {
	err = db.queryRow(ctx, `SELECT tenant FROM reservations WHERE serial = $1 AND authority = $2`, serial[:], authority).Scan(&tenant)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return tenant, err == nil, err
}

// LostLeaf is the type of a leaf that the database lost and of which only the
// hash in the tree is known. Its entry is that hash.
const LostLeaf = tlog.Lost

// AppendLost puts leaves at the end of the log that are known from a copy of the
// tree only. They stand for what happened after a backup: the tree stays the one
// that was signed, and nothing says that they did not happen (S34).
func (db *DB) AppendLost(ctx context.Context, from int64, hashes []tlog.Hash, now time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE log_head SET size = $1 WHERE id = 1 AND size = $2`, from+int64(len(hashes)), from)
		if err == nil && n != 1 {
			err = ErrChanged.New("The log.")
		}
		if err != nil {
			return err
		}
		for i, h := range hashes {
			if _, err := db.exec(ctx, `INSERT INTO log_leaves (idx, type, tenant, account, holder, subject, salt, entry, serial, at) VALUES ($1, $2, '', '', '', $3, $4, $5, $6, $7)`,
				from+int64(i), string(LostLeaf), make([]byte, 32), make([]byte, 16), h[:], []byte{}, millis(now)); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetCheckpoint replaces the stored checkpoint, whatever it was: the tree is the
// same, signed under another name or by another key.
func (db *DB) SetCheckpoint(ctx context.Context, c tlog.Checkpoint) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE log_checkpoint SET note = $1 WHERE id = 1 AND size = $2 AND root = $3`, c.Note, c.Size, c.Root[:])
		if err == nil && n != 1 {
			err = fmt.Errorf("store: the checkpoint is for another tree")
		}
		return err
	})
}
