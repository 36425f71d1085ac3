package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/ownership"
)

// Ledger is the database as [ca.Ledger].
type Ledger struct{ db *DB }

// Ledger gives the issuance side of the database.
func (db *DB) Ledger() *Ledger { return &Ledger{db} }

var _ ca.Ledger = (*Ledger)(nil)

// held is what the database knows of an identity.
type held struct {
	station, account, state  string
	rekeys                   int
	id                       int64
	authority                string
	serial, spki, tbs        []byte
	shard                    int
	notAfter                 int64
	der                      []byte
	issuedAt, leaf           int64
	reason, revokedAt, freed int64 // of the revocation, if any
}

// holdReason is certificateHold (RFC 5280, Section 5.3.1): who is on hold gets no
// other certificate until released.
const holdReason = 6

func (h *held) revoked() bool { return h.revokedAt != 0 && h.freed == 0 }

// Reserve implements [ca.Ledger]. The first reservation of an identity and key
// is written together with those of its batch; everything else directly.
func (l *Ledger) Reserve(ctx context.Context, c ca.Claim) (r ca.Reservation, got *ca.Issued, err error) {
	joined := txFrom(ctx) != nil // who joins a transaction wants to see the rows
	var mine *pendingReservation
	mac := l.db.reservationMAC(&c)
	err = l.db.atomic(ctx, &c, func(ctx context.Context) error {
		r, got, mine = ca.Reservation{}, nil, nil
		tx := txFrom(ctx)
		if err := l.db.CheckClock(); err != nil {
			return err
		}
		if err := tx.checkRequester(&c.Requester, c.Tenant); err != nil {
			return err
		}
		if err := tx.mayHave(&c); err != nil {
			return err
		}
		if tx.waits(&c) {
			if err := tx.settle(false); err != nil {
				return err
			}
		}
		h, newKey, err := tx.holder(&c)
		if err != nil {
			return err
		}
		var q *quotaState
		if c.Account != "" {
			started := h != nil && h.account == c.Account && bytes.Equal(h.spki, c.SPKI[:])
			if q, err = tx.checkAccount(&c, started); err != nil {
				return err
			}
		}
		if h != nil {
			if h.account != c.Account {
				return ca.ErrElsewhere.New("Unit %s belongs to order %s.", c.Holder, h.account)
			}
			if h.station != c.Requester.Station && h.state != stateVoid {
				return ca.ErrElsewhere.New("Unit %s was started at station %s.", c.Holder, h.station)
			}
			if bytes.Equal(h.spki, c.SPKI[:]) {
				switch {
				case h.revoked():
					return ca.ErrHolderRevoked.New("Unit %s, serial number %x.", c.Holder, h.serial)
				case h.der != nil:
					got = h.issued()
				case bytes.Equal(c.Instead[:], h.serial) && c.Authority != h.authority:
					return tx.move(&c, h, &r, mac)
				default:
					if err := tx.checkReservation(h.id); err != nil {
						return err
					}
					copy(r.Serial[:], h.serial)
					r.ID, r.Authority, r.Profile, r.TBS, r.Resumed = h.id, h.authority, c.Profile, h.tbs, true
				}
				return nil
			}
			if err := tx.replace(&c, h); err != nil {
				return err
			}
			if h.state == stateVoid && q != nil { // its unit went back to the order
				if err := tx.takeQuota(&c, q); err != nil {
					return err
				}
			}
		} else {
			if q != nil {
				if err := tx.takeQuota(&c, q); err != nil {
					return err
				}
			}
		}
		r.Authority, r.Profile, r.Serial, r.TBS = c.Authority, c.Profile, c.Serial, c.TBS
		r.Tenant, r.Account, r.Holder = c.Tenant, c.Account, fold(c.Holder)
		if l.db.guard.isCompromised(c.SPKI) {
			return ca.ErrKeyCompromised.New("")
		}
		if h == nil && newKey && !joined && !tx.direct {
			mine = tx.later(&c, mac)
			return nil
		}
		if err := tx.bindKey(&c, h); err != nil {
			return err
		}
		if r.ID, err = tx.insertReservation(&c, mac); err != nil {
			return err
		}
		return tx.pointIdentity(&c, h, r.ID)
	})
	if err == nil && mine != nil {
		r.ID = mine.id
	}
	return r, got, err
}

// checkRequester refuses a revoked certificate and a station that is not active,
// inside the reservation (S19, A8). The answer is kept for the batch.
func (tx *txn) checkRequester(r *ca.Requester, tenant string) error {
	if r.Authority == "" && r.Station == "" {
		return nil
	}
	k := requester{tenant, r.Station, r.Authority, r.Serial, r.Actor}
	if err, ok := tx.trust[k]; ok {
		return err
	}
	s := tx.trustStep(k)
	if err := s.row(tx.rawQueryRow(s.sql, s.args...)); err != nil {
		return err
	}
	return tx.trust[k]
}

// requester is whose trust a batch looks up once.
type requester struct {
	tenant, station, authority string
	serial                     ca.Serial
	actor                      string
}

func requesterOf(c *ca.Claim) requester {
	r := &c.Requester
	return requester{c.Tenant, r.Station, r.Authority, r.Serial, r.Actor}
}

// trustStep reads whether a requester is good.
func (tx *txn) trustStep(k requester) step {
	return step{`SELECT v.released_at, s.state FROM (SELECT 1 AS one) o LEFT JOIN revocations v ON v.authority = $1 AND v.serial = $2 LEFT JOIN stations s ON s.tenant = $3 AND s.id = $4`,
		[]any{k.authority, k.serial[:], k.tenant, k.station}, func(r row) error {
			var released sql.NullInt64
			var state sql.NullString
			if err := r.Scan(&released, &state); err != nil {
				return err
			}
			if tx.trust == nil {
				tx.trust = map[requester]error{}
			}
			tx.trust[k] = nil
			switch {
			case k.authority != "" && released.Valid && released.Int64 == 0:
				tx.trust[k] = ca.ErrRequesterRevoked.New("%s.", k.actor)
			case k.station != "" && state.String != "active":
				tx.trust[k] = ca.ErrRequesterRevoked.New("Station %s is not active.", k.station)
			}
			return nil
		}}
}

// holder finds what the identity has, nil if nothing, and whether nobody has the
// key yet; it refuses a blocked identity. One statement answers all.
func (tx *txn) holder(c *ca.Claim) (h *held, newKey bool, err error) {
	a := tx.ahead[c]
	if a == nil {
		a = &holderRow{}
		if err := tx.rawQueryRow(holderSQL, holderArgs(c)...).Scan(a.fields()...); err != nil {
			return nil, false, err
		}
	}
	if a.blocked.Valid {
		return nil, false, ca.ErrHolderBlocked.New("%s, since %s.", c.Holder, timeOf(a.blocked.Int64).Format(time.RFC3339))
	}
	if a.home.Valid {
		return nil, false, ownership.ErrTaken.New("%s came from another tenant.", c.Holder)
	}
	newKey = !a.keyState.Valid
	if !a.shown.Valid {
		return nil, newKey, nil
	}
	if !a.id.Valid {
		return nil, false, ErrRowTampered.New("Table identities, %s names a reservation that is missing.", c.Holder)
	}
	if a.shown.String != c.Holder {
		return nil, false, ca.ErrElsewhere.New("%s differs from the known unit %s only in case.", c.Holder, a.shown.String)
	}
	return &held{
		station: a.station.String, account: a.account.String, state: a.state.String, rekeys: int(a.rekeys.Int64),
		id: a.id.Int64, authority: a.authority.String, serial: a.serial, spki: a.spki, tbs: a.tbs, shard: int(a.shard.Int64), notAfter: a.notAfter.Int64,
		der: a.der, issuedAt: a.issuedAt.Int64, leaf: a.leaf.Int64,
		reason: a.reason.Int64, revokedAt: a.revokedAt.Int64, freed: a.freed.Int64,
	}, newKey, nil
}

func (h *held) issued() *ca.Issued {
	i := &ca.Issued{ID: h.id, Authority: h.authority, DER: h.der, Leaf: h.leaf, IssuedAt: timeOf(h.issuedAt), Replayed: true}
	copy(i.Serial[:], h.serial)
	return i
}

// move voids a reservation whose authority cannot sign it, and makes that of
// another authority for the same key. The former one has no certificate, and can
// get none any more (S8).
func (tx *txn) move(c *ca.Claim, h *held, r *ca.Reservation, mac []byte) (err error) {
	if err := tx.checkReservation(h.id); err != nil {
		return err
	}
	if err := tx.insertRevocation(revocation{
		authority: h.authority, serial: h.serial, tenant: c.Tenant, account: h.account, holder: fold(c.Holder), shard: h.shard,
		reason: 4 /* superseded */, at: c.Now, by: c.Requester.Actor, note: "issued by " + c.Authority, notAfter: h.notAfter,
		event: tlog.Void, subject: sha256.Sum256(h.serial),
	}); err != nil {
		return err
	}
	*r = ca.Reservation{Authority: c.Authority, Profile: c.Profile, Serial: c.Serial, TBS: c.TBS, Tenant: c.Tenant, Account: c.Account, Holder: fold(c.Holder)}
	if r.ID, err = tx.insertReservation(c, mac); err != nil {
		return err
	}
	n, err := tx.exec(`UPDATE identities SET reservation = $1 WHERE tenant = $2 AND holder = $3 AND profile = $4 AND slot = $5 AND reservation = $6`,
		r.ID, c.Tenant, fold(c.Holder), c.Profile, c.Slot, h.id)
	if err == nil && n != 1 {
		return errStale
	}
	return err
}

// replace decides about a new key for an identity that has one (S9).
func (tx *txn) replace(c *ca.Claim, h *held) error {
	if h.revoked() && h.reason == holdReason {
		return ca.ErrHolderRevoked.New("Unit %s is on hold.", c.Holder)
	}
	live := h.notAfter > millis(c.Now) && !h.revoked()
	switch c.Rekey {
	case ca.RekeyRefuse:
		if live {
			return ca.ErrRework.New("Identity %s.", c.Holder)
		}
	case ca.RekeyBeforeInstalled:
		if h.state == "installed" {
			return ca.ErrRework.New("Unit %s.", c.Holder)
		}
	}
	if c.MaxRekeys > 0 && h.rekeys >= c.MaxRekeys {
		return ca.ErrRekeys.New("Unit %s, %d times.", c.Holder, h.rekeys)
	}
	if !live {
		return nil
	}
	event := tlog.Void
	if h.der != nil {
		event = tlog.Revoke
	}
	return tx.insertRevocation(revocation{
		authority: h.authority, serial: h.serial, tenant: c.Tenant, account: h.account, holder: fold(c.Holder), shard: h.shard,
		reason: 4 /* superseded */, at: c.Now, by: c.Requester.Actor, note: "replaced by a new key", notAfter: h.notAfter,
		event: event, subject: sha256.Sum256(h.serial),
	})
}

// bindKey refuses a key that another holder has (A15) or that was compromised (A14).
func (tx *txn) bindKey(c *ca.Claim, h *held) error {
	folded := fold(c.Holder)
	n, err := tx.exec(`INSERT INTO public_keys (spki, tenant, holder, state) VALUES ($1, $2, $3, 'bound') ON CONFLICT (spki) DO NOTHING`, c.SPKI[:], c.Tenant, folded)
	if err != nil || n == 1 {
		return err
	}
	var tenant, holder, state string
	if err := tx.queryRow(`SELECT tenant, holder, state FROM public_keys WHERE spki = $1`, c.SPKI[:]).Scan(&tenant, &holder, &state); err != nil {
		return err
	}
	if state != "bound" {
		return ca.ErrKeyCompromised.New("")
	}
	if tenant != c.Tenant {
		return ca.ErrKeyInUse.New("") // another tenant's holder is not named
	}
	if holder != folded {
		return ca.ErrKeyInUse.New("It belongs to %s.", holder)
	}
	// The same holder may use its key under another profile, but never again
	// under the same one: that certificate was replaced or revoked.
	var slot string
	var id int64
	err = tx.queryRow(`SELECT slot, id FROM reservations WHERE tenant = $1 AND holder = $2 AND profile = $3 AND spki = $4 ORDER BY id DESC LIMIT 1`, c.Tenant, folded, c.Profile, c.SPKI[:]).Scan(&slot, &id)
	if err == nil && slot == c.Slot && (h == nil || id > h.id) {
		return errStale // another node reserved it since we looked
	}
	if err == nil {
		return ca.ErrHolderRevoked.New("The key of %s had a certificate before.", c.Holder)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

func (tx *txn) insertReservation(c *ca.Claim, mac []byte) (id int64, err error) {
	err = tx.queryRowWrite(manySQL(`reservations (`+reservationColumns+`)`, "", ` ON CONFLICT (serial) DO NOTHING RETURNING id`, 19, 1), reservationArgs(nil, c, mac)...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ca.ErrSerialTaken.New("")
	}
	return id, err
}

// pointIdentity makes the reservation the identity's current one. The condition
// on the old reservation and its state lets one of two nodes win, and keeps a unit
// that another node installs meanwhile.
func (tx *txn) pointIdentity(c *ca.Claim, h *held, id int64) error {
	var n int64
	var err error
	if h == nil {
		n, err = tx.exec(`INSERT INTO identities (tenant, holder, profile, slot, shown, account, station, reservation, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'reserved') ON CONFLICT (tenant, holder, profile, slot) DO NOTHING`,
			c.Tenant, fold(c.Holder), c.Profile, c.Slot, c.Holder, c.Account, c.Requester.Station, id)
	} else {
		n, err = tx.exec(`UPDATE identities SET reservation = $1, station = $7, state = 'reserved', rekeys = rekeys + 1, installed_at = 0, evidence = NULL, mac = NULL WHERE tenant = $2 AND holder = $3 AND profile = $4 AND slot = $5 AND reservation = $6 AND state = $8`,
			id, c.Tenant, fold(c.Holder), c.Profile, c.Slot, h.id, c.Requester.Station, h.state)
	}
	if err == nil && n != 1 {
		return errStale
	}
	return err
}

// Record implements [ca.Ledger].
func (l *Ledger) Record(ctx context.Context, r ca.Reservation, der []byte) (ca.Issued, error) {
	now := l.db.now()
	var out ca.Issued
	var mine *pendingCert
	err := l.db.Atomic(ctx, func(ctx context.Context) error {
		out, mine = ca.Issued{ID: r.ID, Authority: r.Authority, Serial: r.Serial}, nil
		tx := txFrom(ctx)
		if p := tx.certs[r.ID]; p != nil { // recorded by an earlier call of this batch
			mine, out.Replayed = p, true
			return nil
		}
		tenant, account, holder := r.Tenant, r.Account, r.Holder
		if r.Resumed || holder == "" || tx.direct {
			done, err := tx.recorded(&r, &out, &tenant, &account, &holder)
			if err != nil || done {
				return err
			}
		}
		p := &pendingCert{r: r, der: der, at: millis(now)}
		if tx.certs == nil {
			tx.certs = map[int64]*pendingCert{}
		}
		tx.certs[r.ID], mine = p, p
		tx.certList = append(tx.certList, p)
		tx.undo = append(tx.undo, func() { delete(tx.certs, r.ID) })
		tx.appendLeaf(tlog.Issue, tenant, account, holder, sha256.Sum256(der), r.Serial[:], now, func(_ *txn, index int64) error {
			p.leaf = index
			return nil
		})
		return nil
	})
	if err == nil && mine != nil {
		out.DER, out.IssuedAt, out.Leaf = mine.der, timeOf(mine.at), mine.leaf
	}
	return out, err
}

// recorded reads what a reservation has: the certificate that was recorded
// first, if there is one, or whose it is. It refuses a voided one.
func (tx *txn) recorded(r *ca.Reservation, out *ca.Issued, tenant, account, holder *string) (done bool, err error) {
	var have []byte
	var issuedAt, leaf, revokedAt, freed sql.NullInt64
	err = tx.queryRow(`SELECT r.tenant, r.account, r.holder, c.der, c.issued_at, c.leaf, v.revoked_at, v.released_at FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.id = $1`, r.ID).Scan(tenant, account, holder, &have, &issuedAt, &leaf, &revokedAt, &freed)
	if err != nil {
		return false, notFound(err, "There is no reservation %d.", r.ID)
	}
	if revokedAt.Valid && freed.Int64 == 0 {
		return false, ca.ErrHolderRevoked.New("The reservation was voided meanwhile.")
	}
	if have != nil { // the first recorded signature won
		out.DER, out.IssuedAt, out.Leaf, out.Replayed = have, timeOf(issuedAt.Int64), leaf.Int64, true
		return true, nil
	}
	return false, nil
}

// Void implements [ca.Ledger]: the serial number is listed as revoked, and no
// signature for it can be recorded any more (S8).
func (l *Ledger) Void(ctx context.Context, serial ca.Serial, reason string) error {
	now := l.db.now()
	return l.db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		v := revocation{serial: serial[:], reason: 5 /* cessationOfOperation */, at: now, by: "service:", note: reason, event: tlog.Void, subject: sha256.Sum256(serial[:])}
		var issued sql.NullInt64
		err := tx.queryRow(`SELECT r.authority, r.tenant, r.account, r.holder, r.shard, r.not_after, c.issued_at FROM reservations r LEFT JOIN certificates c ON c.reservation = r.id WHERE r.serial = $1`, serial[:]).
			Scan(&v.authority, &v.tenant, &v.account, &v.holder, &v.shard, &v.notAfter, &issued)
		if err != nil {
			return notFound(err, "Serial number %s was never reserved.", serial)
		}
		if issued.Valid {
			return ErrChanged.New("Serial number %s has a certificate; revoke it instead.", serial)
		}
		return tx.insertRevocation(v)
	})
}

// revocation is a row to be: a revoked certificate, a void reservation or a hold.
type revocation struct {
	authority, tenant, account, holder string
	serial                             []byte
	shard, reason                      int
	at                                 time.Time
	by, note                           string
	notAfter                           int64
	event                              tlog.Event
	subject                            [32]byte
}

// insertRevocation writes the row with its leaf and makes this batch forget
// whom it trusted. A serial number that is revoked already stays as it is, but
// for a hold, which becomes permanent, and for keyCompromise, which is never
// weakened (A33); both keep the earlier time. A released one is revoked anew.
func (tx *txn) insertRevocation(v revocation) error {
	row := crl.Revocation{Authority: v.authority, Tenant: v.tenant, Holder: v.holder, Shard: v.shard, Reason: crl.Reason(v.reason), At: v.at, By: v.by, Note: v.note, NotAfter: timeOf(v.notAfter)}
	copy(row.Serial[:], v.serial)
	n, err := tx.exec(`INSERT INTO revocations (authority, serial, tenant, holder, shard, reason, revoked_at, revoked_by, note, not_after, leaf, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, -1, $11) ON CONFLICT (authority, serial) DO NOTHING`,
		v.authority, v.serial, v.tenant, v.holder, v.shard, v.reason, millis(v.at), v.by, v.note, v.notAfter, []byte{})
	if err != nil {
		return err
	}
	if n == 1 {
		tx.reseal("revocations", revocationKey(v.authority, row.Serial), nil, keyOnly)
	} else {
		var since int64
		err := tx.queryRowWrite(`UPDATE revocations SET tenant = $1, holder = $2, shard = $3, not_after = $4, reason = $5, revoked_by = $6, note = $7, released_at = 0, revoked_at = CASE WHEN released_at <> 0 THEN $8 ELSE revoked_at END
			WHERE authority = $9 AND serial = $10 AND (released_at <> 0 OR (reason = 6 AND $5 <> 6) OR (reason <> 1 AND $5 = 1)) RETURNING revoked_at`,
			v.tenant, v.holder, v.shard, v.notAfter, v.reason, v.by, v.note, millis(v.at), v.authority, v.serial).Scan(&since)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		row.At = timeOf(since)
	}
	clear(tx.trust)
	tx.appendLeaf(v.event, v.tenant, v.account, v.holder, v.subject, v.serial, v.at, func(tx *txn, index int64) error {
		return tx.placeRevocation(&row, index)
	})
	return nil
}
