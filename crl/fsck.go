package crl

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/internal/fsck"
)

// FsckStore is what [Fsck] reads.
type FsckStore interface {
	ListStore
	Status(ctx context.Context, authority string, serial ca.Serial) (Status, error)
	Authorities(ctx context.Context) ([]ca.Authority, error)
	EachRevocation(ctx context.Context, each func(Revocation, error) error) error
	// EachStatusLeaf gives the leaves but those of issuance, with the serial
	// number, ordered by index.
	EachStatusLeaf(ctx context.Context, each func(StatusLeaf) error) error
	Blocks(ctx context.Context, from int64, each func(Block) error) error
	// ListRows tells how a list lies in the store; nothing if there is none.
	ListRows(ctx context.Context, authority string, shard int) (ListRows, error)
	// PieceOwners gives every list that has pieces.
	PieceOwners(ctx context.Context, each func(authority string, shard int) error) error
	EachDelta(ctx context.Context, each func(authority string, shard int, number int64, der []byte) error) error
	EachFilter(ctx context.Context, each func(StoredFilter) error) error
}

// StatusLeaf is a leaf about trust that was taken away or given back.
type StatusLeaf struct {
	tlog.Leaf
	Serial []byte
	// Genuine tells whether serial number and time are those it was made with.
	Genuine bool
}

// Fsck checks what this package promises, from the store alone: every revoked,
// unexpired serial number is on the current list of its authority and shard,
// lists verify and are current, delta lists, pieces and filters are those of their
// lists, and revocations and log leaves tell the same story (S10, S32).
func Fsck(ctx context.Context, s FsckStore, now time.Time) ([]fsck.Finding, error) {
	c := &checker{now: now, store: s, authorities: map[string]ca.Info{}, lists: map[listID]*checkedList{}, latest: map[ca.Serial]latestLeaf{}, blocks: map[string]int64{}}
	for _, step := range []func(context.Context) error{c.readLists, c.pieces, c.deltas, c.readLeaves, c.revocations, c.leftovers, c.filters} {
		if err := step(ctx); err != nil {
			return c.found, err
		}
	}
	return c.found, nil
}

type checkedList struct {
	*List
	on   map[string]Reason
	leaf int64
}

type latestLeaf struct {
	event tlog.Event
	index int64
	seen  bool
}

type checker struct {
	now   time.Time
	store FsckStore
	found []fsck.Finding
	// those that have a certificate
	authorities map[string]ca.Info
	lists       map[listID]*checkedList
	latest      map[ca.Serial]latestLeaf
	blocks      map[string]int64
}

func (c *checker) add(check, object, detail string, args ...any) {
	c.found = append(c.found, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
}

func (c *checker) readLists(ctx context.Context) error {
	all, err := c.store.Authorities(ctx)
	if err != nil {
		return err
	}
	heads, err := c.store.ListHeads(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.State == ca.StatePending {
			continue
		}
		cert, err := x509.ParseCertificate(a.Certificate)
		if err != nil {
			c.add("crl-authority-parses", "authorities "+a.Name, "%v", err)
			continue
		}
		c.authorities[a.Name] = ca.Info{Authority: a, Cert: cert}
	}
	for _, h := range heads {
		object := fmt.Sprintf("crls %s/%d", h.Authority, h.Shard)
		a, ok := c.authorities[h.Authority]
		if !ok {
			c.add("crl-authority-known", object, "there is no active authority of that name")
			continue
		}
		row, err := c.store.List(ctx, h.Authority, h.Shard, -1)
		if err != nil {
			return err
		}
		if row == nil {
			continue
		}
		c.list(object, listID{h.Authority, h.Shard}, a, row)
	}
	for _, a := range c.authorities {
		if a.Duty == profile.DutyRoot || !c.now.Before(a.Cert.NotAfter) {
			continue
		}
		for shard := range max(a.Shards, 1) {
			if c.lists[listID{a.Name, shard}] == nil {
				c.add("crl-list-there", fmt.Sprintf("crls %s/%d", a.Name, shard), "the shard has no list that verifies")
			}
		}
	}
	return nil
}

func (c *checker) list(object string, id listID, a ca.Info, row *StoredList) {
	var l *List
	var err error
	if a.Duty == profile.DutyRoot {
		l, err = rootList(row.DER, a)
	} else {
		l, err = ours(row.DER, id, a)
	}
	if err != nil {
		c.add("crl-list-verifies", object, "%v", err)
		c.blame(id, row)
		return
	}
	if l.Number != row.Number || l.Number < 1 && a.Duty != profile.DutyRoot {
		c.add("crl-list-number", object, "the row says number %d, the list %d", row.Number, l.Number)
	}
	if !l.ThisUpdate.Equal(row.ThisUpdate) || !l.NextUpdate.Equal(row.NextUpdate) {
		c.add("crl-list-times", object, "the row says %s to %s, the list %s to %s", row.ThisUpdate.Format(timeForm), row.NextUpdate.Format(timeForm), l.ThisUpdate.Format(timeForm), l.NextUpdate.Format(timeForm))
	}
	if !l.NextUpdate.After(c.now) {
		c.add("crl-list-current", object, "it ended at %s", l.NextUpdate.Format(timeForm))
	}
	if l.ThisUpdate.After(c.now.Add(skew)) {
		c.add("crl-list-current", object, "it starts at %s, in the future", l.ThisUpdate.Format(timeForm))
	}
	k := &checkedList{l, make(map[string]Reason, l.Count), row.Leaf}
	l.Each(func(e Entry) error { k.on[string(e.Serial)] = e.Reason; return nil })
	c.lists[id] = k
}

func (c *checker) readLeaves(ctx context.Context) error {
	if err := c.store.Blocks(ctx, -1, func(b Block) error {
		c.blocks[b.Tenant+"\x00"+b.Holder] = b.Leaf
		return nil
	}); err != nil {
		return err
	}
	err := c.store.EachStatusLeaf(ctx, func(l StatusLeaf) error {
		object := fmt.Sprintf("log_leaves %d", l.Index)
		if l.Compute() != l.Entry {
			c.add("crl-leaf-entry", object, "its entry is not that of its facts")
		} else if !l.Genuine {
			c.add("crl-leaf-entry", object, "its serial number or time was changed")
		}
		if l.Type == "block" {
			if at, ok := c.blocks[l.Tenant+"\x00"+l.Holder]; !ok || at != l.Index {
				c.add("crl-leaf-block", object, "%s was blocked, and there is no such block", l.Holder)
			}
			delete(c.blocks, l.Tenant+"\x00"+l.Holder)
			return nil
		}
		if len(l.Serial) != ca.SerialLen || l.Subject != sha256.Sum256(l.Serial) {
			c.add("crl-leaf-subject", object, "its serial number is not the one that was logged")
			return nil
		}
		c.latest[ca.Serial(l.Serial)] = latestLeaf{event: l.Type, index: l.Index}
		return nil
	})
	for k, at := range c.blocks {
		c.add("crl-block-leaf", fmt.Sprintf("blocks %q", k), "leaf %d is not its block", at)
	}
	return err
}

func (c *checker) revocations(ctx context.Context) error {
	err := c.store.EachRevocation(ctx, func(r Revocation, bad error) error {
		object := fmt.Sprintf("revocations %s/%s", r.Authority, r.Serial)
		if bad != nil {
			c.add("crl-revocation-reads", object, "%v", bad)
			if r.Serial == (ca.Serial{}) {
				return nil
			}
		}
		l, ok := c.latest[r.Serial]
		want := tlog.Revoke
		switch {
		case !r.ReleasedAt.IsZero():
			want = tlog.Release
		case r.Reason == CertificateHold:
			want = tlog.Hold
		}
		switch {
		case !ok:
			c.add("crl-revocation-leaf", object, "it has no leaf in the log")
		case l.index != r.Leaf:
			c.add("crl-revocation-leaf", object, "it names leaf %d, the newest is %d", r.Leaf, l.index)
		case l.event != want && !(want == tlog.Revoke && l.event == tlog.Void):
			c.add("crl-revocation-leaf", object, "the row is a %s, the log says %s", want, l.event)
		}
		l.seen = true
		c.latest[r.Serial] = l
		if r.ReleasedAt.IsZero() && r.NotAfter.After(c.now) {
			c.listed(object, &r)
		}
		return nil
	})
	return err
}

// publishing is how long a revocation may be on its way to a list while the service
// runs: a second by its promise (A29), more on a machine that is busy.
const publishing = time.Minute

func (c *checker) listed(object string, r *Revocation) {
	l := c.lists[listID{r.Authority, r.Shard}]
	if l == nil {
		c.add("crl-revoked-listed", object, "shard %d of %s has no list that verifies", r.Shard, r.Authority)
		return
	}
	reason, on := l.on[string(r.Serial[:])]
	switch {
	case !on && c.now.Sub(r.At) < publishing:
	case !on:
		c.add("crl-revoked-listed", object, "it is not on list %d of shard %d", l.Number, r.Shard)
	case reason != r.Reason:
		c.add("crl-revoked-listed", object, "the list says %s, the row %s", reason, r.Reason)
	}
}

// leftovers are serial numbers that the log or a list revokes and the table does
// not: the trace of a deleted row.
func (c *checker) leftovers(ctx context.Context) error {
	for serial, l := range c.latest {
		if !l.seen {
			c.add("crl-leaf-revocation", fmt.Sprintf("log_leaves %d", l.index), "%s of serial number %s has no row in revocations", l.event, serial)
		}
	}
	for id, l := range c.lists {
		if c.authorities[id.authority].Duty == profile.DutyRoot {
			continue // what it names was signed and revoked at the root, not here
		}
		for s := range l.on {
			e := Entry{Serial: []byte(s)}
			serial, ok := e.ours()
			if !ok {
				continue
			}
			if seen, ok := c.latest[serial]; ok && seen.seen {
				continue
			}
			st, err := c.store.Status(ctx, id.authority, serial)
			if err != nil {
				return err
			}
			if !st.Revoked && l.URL != "" {
				c.add("crl-listed-revoked", fmt.Sprintf("revocations %s/%s", id.authority, serial), "it is on the signed list and not in the table")
			}
		}
	}
	return nil
}
