package crl

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/durable"
)

// mode says how a list is made.
type mode bool

const (
	changesOnly mode = false // the last list, with what changed since
	full        mode = true  // from the table, without what expired
)

// update makes and publishes one list. The steps are in this order so that
// nothing is served that is not stored, and nothing is stored that was not read
// back and compared with the list before.
func (p *Publisher) update(ctx context.Context, id listID, m mode) (err error) {
	lock := &p.build[hash(id)%len(p.build)]
	lock.Lock()
	defer lock.Unlock()
	defer func() {
		if err != nil {
			p.Stats.Failures.Add(1)
			p.log.ErrorContext(ctx, "list not published; the former one stays", "authority", id.authority, "shard", id.shard, "error", err)
		}
	}()
	a, err := p.cfg.CA.Authority(id.authority)
	if err != nil {
		return err
	}
	for range maxTries {
		// 1. what is published
		last, old, err := p.load(ctx, id, a)
		if err != nil {
			return err
		}
		mode := m
		if last == nil || p.stale(last, p.now()) {
			mode = full
		}
		// 2. what it should say
		d, err := p.draft(ctx, id, last, old, mode)
		if err != nil {
			return err
		}
		if d == nil { // it says that already
			return nil
		}
		// 3. sign
		if p.cfg.Clock != nil {
			if err := p.cfg.Clock(); err != nil { // what is served stays
				return err
			}
		}
		out, err := p.cfg.CA.SignList(ctx, id.authority, appendTBS(&d.header, d.entries))
		if err != nil {
			return err
		}
		// 4. read back
		next, err := p.check(out, a, last, d)
		if err != nil {
			return err
		}
		// 5. store, if no other node was faster
		head := ListHead{id.authority, id.shard, next.Number, next.ThisUpdate, next.NextUpdate, d.leaf}
		err = p.cfg.Store.PutList(ctx, StoredList{head, out}, old)
		if errors.Is(err, ErrListMoved) {
			p.Stats.Moved.Add(1)
			continue
		}
		if err != nil {
			return stored(err)
		}
		// 6. serve
		p.Stats.Built.Add(1)
		p.log.InfoContext(ctx, "list published", "authority", id.authority, "shard", id.shard, "number", next.Number, "entries", next.Count)
		return p.serve(id, next, d.leaf)
	}
	return ErrListMoved.New("Authority %s, shard %d, %d times.", id.authority, id.shard, maxTries)
}

func hash(id listID) int {
	h := uint32(2166136261)
	for i := range len(id.authority) {
		h = (h ^ uint32(id.authority[i])) * 16777619
	}
	return int((h ^ uint32(id.shard)*2654435761) >> 8 & 0xffff)
}

// load gives the published list, nil if there is none, and the number in the
// store, which is another one after a restore from a backup: then the published
// file can be newer, and numbers and entries go on from it (A32).
func (p *Publisher) load(ctx context.Context, id listID, a ca.Info) (*published, int64, error) {
	have := p.current(id)
	known := int64(0)
	if have != nil {
		known = have.Number
	}
	row, err := p.cfg.Store.List(ctx, id.authority, id.shard, known)
	if err != nil {
		return nil, 0, stored(err)
	}
	number := int64(0)
	if row != nil {
		number = row.Number
	}
	if have == nil {
		if f := p.readFile(id, a); f != nil && f.Number > number {
			p.Stats.Rollback.Add(1)
			p.log.ErrorContext(ctx, "published list is newer than the stored one", "authority", id.authority, "shard", id.shard, "published", f.Number, "stored", number)
			return p.install(id, f, 0), number, nil
		}
	}
	if number <= known {
		if number < known {
			p.Stats.Rollback.Add(1)
			p.log.ErrorContext(ctx, "stored list is older than the served one", "authority", id.authority, "shard", id.shard, "served", known, "stored", number)
		}
		return have, number, nil
	}
	l, err := ours(row.DER, id, a)
	if err != nil || l.Number != number {
		// Something else wrote the row: go on from what is known, with a number above it.
		p.Stats.Rollback.Add(1)
		p.log.ErrorContext(ctx, "stored list is not what was signed", "authority", id.authority, "shard", id.shard, "error", err)
		return have, number, nil
	}
	if err := p.serve(id, l, row.Leaf); err != nil {
		return nil, 0, err
	}
	return p.current(id), number, nil
}

// ours parses a list and proves that it is one of ours for this shard.
func ours(in []byte, id listID, a ca.Info) (*List, error) {
	l, err := ParseList(in)
	if err != nil {
		return nil, err
	}
	if err := l.Verify(a.Cert); err != nil {
		return nil, err
	}
	if want := listURL(a.ListBase(), id.shard); l.URL != want {
		return nil, ErrListUntrusted.New("It is for %s, not for %s.", l.URL, want)
	}
	if !l.Ordered {
		return nil, malformed(nil, "Its entries are not ordered.")
	}
	return l, nil
}

// draft is a list to be.
type draft struct {
	header
	entries [][]byte
	leaf    int64
	gone    map[ca.Serial]bool // may leave, with evidence
}

// draft composes a list; nil if the published one says the same and is fresh.
func (p *Publisher) draft(ctx context.Context, id listID, last *published, old int64, m mode) (*draft, error) {
	now := p.now()
	d := &draft{gone: map[ca.Serial]bool{}}
	var err error
	// The size is read before the rows: what comes between is in this list and
	// looked at again for the next.
	if d.leaf, err = p.cfg.Store.Head(ctx); err != nil {
		return nil, stored(err)
	}
	alg, issuer, err := p.cfg.CA.ListAlgorithm(id.authority)
	if err != nil {
		return nil, err
	}
	base := &List{Ordered: true}
	this := now.UTC().Truncate(time.Second)
	number := old + 1
	if last != nil {
		base = last.List
		number = max(last.Number, old) + 1
		// Also when the clock fell: time and number rise together (A32).
		if !this.After(last.ThisUpdate) {
			this = last.ThisUpdate.Add(time.Second)
		}
	}
	end := now.Add(p.cfg.Validity).UTC().Truncate(time.Second)
	if !end.After(this) {
		end = this.Add(p.cfg.Validity)
	}
	d.header = header{SigAlg: alg, Issuer: issuer.Subject, KeyID: issuer.KeyID, URL: listURL(issuer.CRLBase, id.shard), Number: number, ThisUpdate: this, NextUpdate: end}

	var entries []byte
	var edits []edit
	if m == full {
		var odd []Revocation
		if entries, odd, err = p.table(ctx, id, last, this); err != nil {
			return nil, err
		}
		if last != nil {
			if edits, err = p.keep(ctx, id, last, entries, d.gone); err != nil {
				return nil, err
			}
		}
		if edits, err = p.odd(ctx, id, last, this, odd, edits); err != nil {
			return nil, err
		}
	} else {
		entries = base.Entries
		if edits, err = p.since(ctx, id, last, this, d.gone); err != nil {
			return nil, err
		}
	}
	if d.entries, err = merge(entries, edits); err != nil {
		return nil, err
	}
	if last != nil && !p.stale(last, now) && old == last.Number && same(last.Entries, d.entries) {
		p.cover(id, d.leaf)
		return nil, nil
	}
	return d, nil
}

// cover notes that the served list already says what the log says up to leaf.
func (p *Publisher) cover(id listID, leaf int64) {
	p.mu.Lock()
	if l := p.lists[id]; l != nil && l.leaf < leaf {
		c := *l
		c.leaf = leaf
		p.lists[id] = &c
	}
	p.mu.Unlock()
}

func same(a []byte, pieces [][]byte) bool {
	for _, b := range pieces {
		if len(b) > len(a) || string(a[:len(b)]) != string(b) {
			return false
		}
		a = a[len(b):]
	}
	return len(a) == 0
}

// earlier keeps a time of revocation, which may come from a node whose clock is
// ahead, from lying after thisUpdate.
func earlier(at, this time.Time) time.Time {
	if at.After(this) {
		return this
	}
	return at
}

// table encodes what is revoked. An expired certificate leaves only after it was
// on a list that was made after its end (A27).
// odd are rows that are not as they were written.
func (p *Publisher) table(ctx context.Context, id listID, last *published, this time.Time) (entries []byte, odd []Revocation, err error) {
	var endFrom time.Time
	if last != nil {
		endFrom = last.ThisUpdate
	}
	err = p.cfg.Store.ShardRevocations(ctx, id.authority, id.shard, endFrom, func(r Revocation, bad error) error {
		if bad != nil { // A3
			p.log.ErrorContext(ctx, "revocation row cannot be read", "authority", id.authority, "error", bad)
			odd = append(odd, r)
			return nil
		}
		entries = appendEntry(entries, r.Serial, earlier(r.At, this), r.Reason)
		return nil
	})
	return entries, odd, stored(err)
}

// odd adds to edits the rows that are not as they were written. What is on the
// last list stays there as it was signed, with its reason and time; the others
// are listed as the row says, if the authority ever reserved the serial number.
func (p *Publisher) odd(ctx context.Context, id listID, last *published, this time.Time, rows []Revocation, edits []edit) ([]edit, error) {
	if len(rows) == 0 {
		return edits, nil
	}
	on := map[string]bool{}
	if last != nil {
		if err := last.Each(func(e Entry) error { on[string(e.Serial)] = true; return nil }); err != nil {
			return nil, err
		}
	}
	for _, r := range rows {
		if r.Serial == (ca.Serial{}) || on[string(r.Serial[:])] {
			continue
		}
		why, err := p.cfg.Store.Evidence(ctx, id.authority, r.Serial)
		if err != nil {
			return nil, stored(err)
		}
		if !why.NotAfter.IsZero() {
			edits = append(edits, edit{r.Serial, appendEntry(nil, r.Serial, earlier(r.At, this), r.Reason)})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return slices.Compare(a.serial[:], b.serial[:]) })
	return edits, nil
}

// keep finds what the last list revokes and the table no longer does. What
// neither expired nor was released stays on the list and in the set, and is an
// alarm: a database writer does not win (S32).
func (p *Publisher) keep(ctx context.Context, id listID, last *published, entries []byte, gone map[ca.Serial]bool) ([]edit, error) {
	lost, err := last.lost(entries)
	if err != nil {
		return nil, err
	}
	var out []edit
	for _, e := range lost {
		serial, ok := e.ours()
		if !ok {
			return nil, malformed(nil, "The published list has the serial number %x, which is not of our form.", e.Serial)
		}
		why, err := p.cfg.Store.Evidence(ctx, id.authority, serial)
		if err != nil {
			return nil, stored(err)
		}
		if why.Released || !why.NotAfter.IsZero() && why.NotAfter.Before(last.ThisUpdate) {
			gone[serial] = true
			continue
		}
		p.carry(ctx, id, e, serial, why)
		out = append(out, edit{serial, e.Raw})
	}
	return out, nil
}

func (p *Publisher) carry(ctx context.Context, id listID, e Entry, serial ca.Serial, why Evidence) {
	p.Stats.Carried.Add(1)
	p.log.ErrorContext(ctx, "revocation is on the signed list but not in the table; it stays revoked", "authority", id.authority, "shard", id.shard, "serial", serial.String())
	end := why.NotAfter
	if end.IsZero() {
		end = profile.NoExpiry
	}
	p.cfg.Set.adopt(id.authority, e, end)
}

// since gives what changed after the last list was made.
func (p *Publisher) since(ctx context.Context, id listID, last *published, this time.Time, gone map[ca.Serial]bool) (out []edit, err error) {
	var released, odd []Revocation
	err = p.cfg.Store.ShardChanges(ctx, id.authority, id.shard, last.leaf, func(r Revocation, bad error) error {
		switch {
		case bad != nil:
			p.log.ErrorContext(ctx, "revocation row cannot be read", "authority", id.authority, "error", bad)
			odd = append(odd, r)
		case !r.ReleasedAt.IsZero():
			released = append(released, r)
		default:
			out = append(out, edit{r.Serial, appendEntry(nil, r.Serial, earlier(r.At, this), r.Reason)})
		}
		return nil
	})
	if err != nil {
		return nil, stored(err)
	}
	for _, r := range released {
		why, err := p.cfg.Store.Evidence(ctx, id.authority, r.Serial)
		if err != nil {
			return nil, stored(err)
		}
		if !why.Released { // the row says so and the log does not: it stays
			p.carry(ctx, id, Entry{Serial: r.Serial[:], At: r.At, Reason: r.Reason}, r.Serial, why)
			continue
		}
		gone[r.Serial] = true
		out = append(out, edit{serial: r.Serial})
	}
	slices.SortFunc(out, func(a, b edit) int { return slices.Compare(a.serial[:], b.serial[:]) })
	return p.odd(ctx, id, last, this, odd, out)
}

// check reads a signed list back before it is stored: it parses, verifies, has a
// higher number and later times, and keeps what the last one had (S32).
func (p *Publisher) check(out []byte, a ca.Info, last *published, d *draft) (*List, error) {
	next, err := ParseList(out)
	if err != nil {
		return nil, err
	}
	if err := next.Verify(a.Cert); err != nil {
		return nil, err
	}
	if next.Number != d.Number || next.URL != d.URL || !next.ThisUpdate.Equal(d.ThisUpdate) || !next.NextUpdate.Equal(d.NextUpdate) || !next.Ordered {
		return nil, malformed(nil, "The signed list says something else than was planned.")
	}
	if !next.NextUpdate.After(p.now()) {
		return nil, malformed(nil, "The signed list is over already.")
	}
	if last == nil {
		return next, nil
	}
	if next.Number <= last.Number || !next.ThisUpdate.After(last.ThisUpdate) {
		return nil, ErrListOld.New("Number %d after %d.", next.Number, last.Number)
	}
	lost, err := last.lost(next.Entries)
	if err != nil {
		return nil, err
	}
	for _, e := range lost {
		if serial, ok := e.ours(); !ok || !d.gone[serial] {
			return nil, ErrListDrops.New("Serial number %x.", e.Serial)
		}
	}
	return next, nil
}

// serve writes the file, then answers with the list.
func (p *Publisher) serve(id listID, l *List, leaf int64) error {
	if p.cfg.Dir != "" {
		dir := filepath.Join(p.cfg.Dir, "crl", id.authority)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(p.file(id), l.DER, 0o644); err != nil {
			return err
		}
	}
	p.install(id, l, leaf)
	return nil
}

func (p *Publisher) install(id listID, l *List, leaf int64) *published {
	n := &published{List: l, leaf: leaf, etag: etag(l.DER)}
	p.mu.Lock()
	p.lists[id] = n
	p.mu.Unlock()
	return n
}

func (p *Publisher) file(id listID) string {
	return filepath.Join(p.cfg.Dir, "crl", id.authority, strconv.Itoa(id.shard)+".crl")
}

// readFile reads the published file, nil if there is none of ours.
func (p *Publisher) readFile(id listID, a ca.Info) *List {
	if p.cfg.Dir == "" {
		return nil
	}
	data, err := os.ReadFile(p.file(id))
	if err != nil {
		return nil
	}
	l, err := ours(data, id, a)
	if err != nil {
		p.log.Error("published file is not a list of ours", "authority", id.authority, "shard", id.shard, "error", err)
		return nil
	}
	return l
}
