package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet/presence"
)

var _ crl.BlastStore = (*DB)(nil)

// BlastSelect implements [crl.BlastStore]. A station's requests are found by index,
// those of an order and of a key by their holders; other questions read the
// tenant's reservations.
func (db *DB) BlastSelect(ctx context.Context, tenant string, q crl.BlastQuery, f func(crl.BlastMember) error) error {
	args := []any{tenant}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	var where strings.Builder
	where.WriteString(`m.tenant = $1`)
	and := func(cond string) { where.WriteString(" AND " + cond) }
	if q.Station != "" {
		and(`m.account <> '' AND m.requester = ` + arg((&access.Actor{Kind: access.KindStation, Name: q.Station}).String()))
	}
	if q.Order != "" {
		n := arg(q.Order)
		and(`m.account = ` + n)
		if q.Station == "" {
			and(`m.holder IN (SELECT i.holder FROM identities i WHERE i.account = ` + n + ` AND i.tenant = $1)`)
		}
	}
	if q.Key != "" {
		spki, err := hex.DecodeString(q.Key)
		if err != nil {
			return crl.ErrBlastQuery.Wrap(err, "The key is not in hexadecimal.")
		}
		n := arg(spki)
		and(`m.spki = ` + n)
		if q.Station == "" && q.Order == "" {
			and(`m.holder IN (SELECT k.holder FROM public_keys k WHERE k.spki = ` + n + ` AND k.tenant = $1)`)
		}
	}
	if q.Operator != "" { // the record says asserted:NAME where only the station named the operator (S13)
		and(`m.operator IN (` + arg(q.Operator) + `, ` + arg("asserted:"+q.Operator) + `)`)
	}
	for _, c := range []struct{ column, value string }{{"authority", q.Authority}, {"tool", q.Tool}} {
		if c.value != "" {
			and(`m.` + c.column + ` = ` + arg(c.value))
		}
	}
	if !q.From.IsZero() {
		and(`m.reserved_at >= ` + arg(millis(q.From)))
	}
	if !q.To.IsZero() {
		and(`m.reserved_at < ` + arg(millis(q.To)))
	}
	// What a birth certificate passes on goes with it, unless it had been replaced:
	// then the device lives on another one (S16).
	rows, err := db.query(ctx, `SELECT r.id, r.authority, r.serial, r.holder, r.profile, r.not_after, c.reservation IS NOT NULL, v.reason, v.released_at, r.id = m.id
		FROM reservations m
		JOIN reservations r ON r.tenant = m.tenant AND r.holder = m.holder AND (r.id = m.id OR m.profile = '`+string(profile.IDevID)+`' AND r.profile = '`+string(profile.LDevID)+`'
			AND NOT EXISTS (SELECT 1 FROM revocations w WHERE w.authority = m.authority AND w.serial = m.serial AND w.reason = 4 AND w.released_at = 0))
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE `+where.String(), args...)
	return each(rows, err, func(r row) error {
		var m crl.BlastMember
		var serial []byte
		var end int64
		var reason, released sql.NullInt64
		if err := r.Scan(&m.ID, &m.Authority, &serial, &m.Holder, &m.Profile, &end, &m.Issued, &reason, &released, &m.Direct); err != nil {
			return err
		}
		if len(serial) != ca.SerialLen {
			return ErrRowTampered.New("Table reservations, row %d.", m.ID)
		}
		m.Serial, m.NotAfter = ca.Serial(serial), timeOf(end)
		if reason.Valid && released.Int64 == 0 {
			m.Revoked, m.Reason = true, crl.Reason(reason.Int64)
		}
		return f(m)
	})
}

// BlastLive implements [crl.BlastStore].
func (db *DB) BlastLive(ctx context.Context, tenant string, now time.Time) (map[string]bool, error) {
	out := map[string]bool{}
	rows, err := db.query(ctx, `SELECT c.holder FROM presence p JOIN device_certificates c ON c.tenant = p.tenant AND c.id = p.certificate WHERE p.connected = 1 AND p.tenant = $1
		UNION SELECT c.holder FROM certificate_uses u JOIN device_certificates c ON c.tenant = u.tenant AND c.id = u.certificate WHERE u.at > $2 AND u.tenant = $1`, tenant, millis(now.Add(-presence.Recent)))
	return out, each(rows, err, func(r row) error {
		var holder string
		err := r.Scan(&holder)
		out[holder] = true
		return err
	})
}

// BlastLate implements [crl.BlastStore].
func (db *DB) BlastLate(ctx context.Context, tenant, holder string, after int64) (out []crl.Story, err error) {
	rows, err := db.query(ctx, storySelect+`WHERE r.tenant = $1 AND r.holder = $2 AND r.id > $3 AND r.profile = '`+string(profile.LDevID)+`' ORDER BY r.id`, tenant, fold(holder), after)
	err = each(rows, err, func(r row) error {
		s, err := db.scanStory(ctx, r)
		out = append(out, s)
		return err
	})
	return out, err
}

const (
	blastColumns       = `tenant, id, body, progress, state, version, mac`
	blastMemberColumns = `tenant, plan, first, members, mac`

	blastChunk  = 1000 // members of one row
	blastRecord = 8 + 2 + ca.SerialLen + 1
)

func (db *DB) blastMAC(tenant, id string, body, progress []byte, state string, version int64) []byte {
	return db.cfg.Seal.MAC("blast_plans", []byte(tenant), []byte(id), body, progress, []byte(state), number(version))
}

// scanBlast reads a plan; the row is believed only as written (S32).
func (db *DB) scanBlast(r row) (p crl.BlastPlan, err error) {
	var tenant, id string
	var progress, mac []byte
	if err := r.Scan(&tenant, &id, &p.Body, &progress, (*string)(&p.State), &p.Version, &mac); err != nil {
		return p, err
	}
	err = json.Unmarshal(p.Body, &p.BlastBody)
	if err == nil {
		err = json.Unmarshal(progress, &p.Progress)
	}
	if err == nil && (p.Tenant != tenant || p.ID != id || !hmac.Equal(mac, db.blastMAC(tenant, id, p.Body, progress, string(p.State), p.Version))) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		return crl.BlastPlan{}, ErrRowTampered.Wrap(err, "Table blast_plans, row %s.", pair(tenant, id))
	}
	return p, nil
}

func blastMemberKey(tenant, plan string, first int64) string {
	return pair(tenant, plan) + "/" + strconv.FormatInt(first, 10)
}

func (db *DB) blastMembersMAC(tenant, plan string, first int64, members []byte) []byte {
	return db.cfg.Seal.MAC("blast_members", []byte(tenant), []byte(plan), number(first), members)
}

// scanBlastMembers reads a row of members.
func (db *DB) scanBlastMembers(r row) (key string, first int64, members, mac []byte, err error) {
	var tenant, plan string
	if err := r.Scan(&tenant, &plan, &first, &members, &mac); err != nil {
		return "", 0, nil, nil, err
	}
	key = blastMemberKey(tenant, plan, first)
	if len(members)%blastRecord != 0 || !hmac.Equal(mac, db.blastMembersMAC(tenant, plan, first, members)) {
		err = ErrRowTampered.New("Table blast_members, row %s.", key)
	}
	return key, first, members, mac, err
}

// CreateBlast implements [crl.BlastStore].
func (db *DB) CreateBlast(ctx context.Context, p crl.BlastPlan, members []crl.BlastMember) error {
	type piece struct {
		first       int64
		octets, mac []byte
	}
	var pieces []piece
	for i := 0; i < len(members); i += blastChunk {
		some := members[i:min(i+blastChunk, len(members))]
		b := make([]byte, 0, len(some)*blastRecord)
		for j := range some {
			m := &some[j]
			authority := slices.Index(p.Authorities, m.Authority)
			if authority < 0 || authority > 0xffff {
				return crl.ErrBlastLarge.New("It names %d authorities.", len(p.Authorities))
			}
			b = binary.BigEndian.AppendUint64(b, uint64(m.ID))
			b = binary.BigEndian.AppendUint16(b, uint16(authority))
			b = append(append(b, m.Serial[:]...), byte(flag(m.Direct)))
		}
		pieces = append(pieces, piece{int64(i), b, db.blastMembersMAC(p.Tenant, p.ID, int64(i), b)})
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		for _, c := range pieces {
			if _, err := tx.exec(`INSERT INTO blast_members (`+blastMemberColumns+`) VALUES ($1, $2, $3, $4, $5)`, p.Tenant, p.ID, c.first, c.octets, c.mac); err != nil {
				return err
			}
			tx.reseal("blast_members", blastMemberKey(p.Tenant, p.ID, c.first), nil, c.mac)
		}
		return db.PutBlast(ctx, p, 0)
	})
}

// PutBlast implements [crl.BlastStore].
func (db *DB) PutBlast(ctx context.Context, p crl.BlastPlan, was int64) error {
	progress, err := json.Marshal(&p.Progress)
	if err != nil {
		return err
	}
	mac := db.blastMAC(p.Tenant, p.ID, p.Body, progress, string(p.State), p.Version)
	return db.put(ctx, sealedRow{table: "blast_plans", name: pair(p.Tenant, p.ID), mac: mac, find: `SELECT mac FROM blast_plans WHERE tenant = $1 AND id = $2`, key: []any{p.Tenant, p.ID}, changed: crl.ErrBlastMoved}, was,
		`INSERT INTO blast_plans (`+blastColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, id) DO NOTHING`, []any{p.Tenant, p.ID, p.Body, progress, string(p.State), p.Version, mac},
		`UPDATE blast_plans SET progress = $1, state = $2, version = $3, mac = $4 WHERE tenant = $5 AND id = $6 AND version = $7`, []any{progress, string(p.State), p.Version, mac, p.Tenant, p.ID, was})
}

// Blast implements [crl.BlastStore].
func (db *DB) Blast(ctx context.Context, s access.Scope, id string) (crl.BlastPlan, error) {
	p, err := db.scanBlast(db.queryRow(ctx, `SELECT `+blastColumns+` FROM blast_plans WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return p, crl.ErrBlastUnknown.New("%.80s.", id)
	}
	return p, err
}

// Blasts implements [crl.BlastStore].
func (db *DB) Blasts(ctx context.Context, s access.Scope, before string, limit int) (out []crl.BlastPlan, err error) {
	if before == "" {
		before = "~" // behind every id
	}
	rows, err := db.query(ctx, `SELECT `+blastColumns+` FROM blast_plans WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3`, s.Tenant, before, limit)
	err = each(rows, err, func(r row) error {
		p, err := db.scanBlast(r)
		out = append(out, p)
		return err
	})
	return out, err
}

// BlastMembers implements [crl.BlastStore].
func (db *DB) BlastMembers(ctx context.Context, p *crl.BlastPlan, from int64, limit int) (out []crl.BlastMember, err error) {
	from = max(from, 0)
	for first := from / blastChunk * blastChunk; limit > 0 && first < p.Counts.Certificates; first += blastChunk {
		_, _, b, _, err := db.scanBlastMembers(db.queryRow(ctx, `SELECT `+blastMemberColumns+` FROM blast_members WHERE tenant = $1 AND plan = $2 AND first = $3`, p.Tenant, p.ID, first))
		if err != nil {
			if errors.Is(err, sql.ErrNoRows) {
				err = ErrRowTampered.New("Table blast_members, row %s is missing.", blastMemberKey(p.Tenant, p.ID, first))
			}
			return nil, err
		}
		for b = b[min(max(from-first, 0)*blastRecord, int64(len(b))):]; len(b) > 0 && limit > 0; b, limit = b[blastRecord:], limit-1 {
			authority := int(binary.BigEndian.Uint16(b[8:]))
			if authority >= len(p.Authorities) {
				return nil, ErrRowTampered.New("Table blast_members, row %s.", blastMemberKey(p.Tenant, p.ID, first))
			}
			out = append(out, crl.BlastMember{ID: int64(binary.BigEndian.Uint64(b)), Authority: p.Authorities[authority], Serial: ca.Serial(b[10 : 10+ca.SerialLen]), Direct: b[blastRecord-1] == 1})
		}
	}
	return out, nil
}

// RunningBlasts implements [crl.BlastStore].
func (db *DB) RunningBlasts(ctx context.Context) (out [][2]string, err error) {
	rows, err := db.query(ctx, `SELECT tenant, id FROM blast_plans WHERE state = 'running' ORDER BY tenant, id`)
	err = each(rows, err, func(r row) error {
		var k [2]string
		err := r.Scan(&k[0], &k[1])
		out = append(out, k)
		return err
	})
	return out, err
}
