package crl

import (
	"context"
	"errors"
	"fmt"

	"hallmark/crl/filter"
)

// ListRows is how a list lies in the store.
type ListRows struct {
	Number int64
	Front  int   // octets before the first piece
	Named  []Cut // the pieces that its row names, in their order
	Broken bool  // what names them cannot be read
	Stored []Cut // the pieces that there are
}

// pieces checks that every list has the pieces that its row names, and that every
// piece belongs to a list.
func (c *checker) pieces(ctx context.Context) error {
	owners := map[listID]bool{}
	for id := range c.lists {
		owners[id] = true
	}
	if err := c.store.PieceOwners(ctx, func(authority string, shard int) error {
		owners[listID{authority, shard}] = true
		return nil
	}); err != nil {
		return err
	}
	for id := range owners {
		rows, err := c.store.ListRows(ctx, id.authority, id.shard)
		if err != nil {
			return err
		}
		if rows.Broken {
			c.add("crl-piece-names", fmt.Sprintf("crls %s/%d", id.authority, id.shard), "what names its pieces cannot be read")
			continue
		}
		object := func(piece int64) string { return pieceName(id, piece) }
		named := map[int64]int{}
		for _, n := range rows.Named {
			if _, twice := named[n.ID]; twice {
				c.add("crl-piece-once", object(n.ID), "its list names it twice")
			}
			named[n.ID] = n.Len
		}
		for _, s := range rows.Stored {
			switch n, ok := named[s.ID]; {
			case !ok:
				c.add("crl-piece-list", object(s.ID), "no list names it")
			case n != s.Len:
				c.add("crl-piece-length", object(s.ID), "it has %d octets, its list says %d", s.Len, n)
			}
			delete(named, s.ID)
		}
		for piece := range named {
			c.add("crl-piece-there", object(piece), "its list names it, and it is not there")
		}
	}
	return nil
}

func pieceName(id listID, piece int64) string {
	return fmt.Sprintf("crl_pieces %s/%d/%d", id.authority, id.shard, piece)
}

// blame looks for the piece that makes a list fail: one that cannot be read, or has
// an entry that the table of revocations does not. Both are no proof by themselves;
// the list's signature is.
func (c *checker) blame(id listID, row *StoredList) {
	if row.Cuts == nil {
		return
	}
	rows, err := c.store.ListRows(context.Background(), id.authority, id.shard)
	if err != nil || rows.Number != row.Number {
		return
	}
	at := rows.Front
	var before *piece
	for _, cut := range row.Cuts {
		if cut.Len < 0 || at+cut.Len > len(row.DER) {
			return
		}
		p := &piece{der: row.DER[at : at+cut.Len]}
		at += cut.Len
		if err := errors.Join(p.read(), p.check()); err != nil {
			c.add("crl-piece-reads", pieceName(id, cut.ID), "%v", err)
			continue
		}
		if p.id = cut.ID; before != nil && compareSerials(before.last, p.first) >= 0 {
			c.add("crl-piece-order", pieceName(id, cut.ID), "it does not come after %s", pieceName(id, before.id))
		}
		before = p
		e := &entries{}
		e.add(p)
		differs := errors.New("differs")
		err := e.each(func(one Entry) error {
			serial, ok := one.ours()
			if !ok {
				return differs
			}
			st, err := c.store.Status(context.Background(), id.authority, serial)
			if err == nil && (!st.Revoked || st.Reason != one.Reason || st.At.Unix() != one.At.Unix()) {
				c.add("crl-piece-entry", pieceName(id, cut.ID), "its entry for %s is not what the table says", serial)
				err = differs
			}
			return err
		})
		if err != nil && err != differs {
			c.add("crl-piece-reads", pieceName(id, cut.ID), "%v", err)
		}
	}
}

// deltas checks that a delta list goes with the list of its number, and says
// nothing else. One that is older is left from a time when there were some.
func (c *checker) deltas(ctx context.Context) error {
	return c.store.EachDelta(ctx, func(authority string, shard int, number int64, der []byte) error {
		object := fmt.Sprintf("crl_deltas %s/%d", authority, shard)
		full := c.lists[listID{authority, shard}]
		if full == nil {
			if head, err := c.number(ctx, authority, shard); err != nil || head > 0 {
				return err // it does not verify, which is named already
			}
			c.add("crl-delta-list", object, "there is no list that it goes with")
			return nil
		}
		switch {
		case number < full.Number:
			return nil
		case number > full.Number:
			head, err := c.number(ctx, authority, shard)
			if err == nil && number > head {
				c.add("crl-delta-number", object, "it has number %d, its list %d: numbers never fall", number, head)
			}
			return err // published meanwhile otherwise
		}
		l, err := ParseList(der)
		if err == nil {
			err = l.Verify(c.authorities[authority].Cert)
		}
		if err != nil {
			c.add("crl-delta-verifies", object, "%v", err)
			return nil
		}
		if l.Number != number || l.Base < 1 || l.Base >= number || l.URL != full.URL || !l.ThisUpdate.Equal(full.ThisUpdate) || !l.NextUpdate.Equal(full.NextUpdate) || !l.Ordered {
			c.add("crl-delta-list", object, "it is the delta list %d from %d of %s, and goes with list %d of %s", l.Number, l.Base, l.URL, full.Number, full.URL)
			return nil
		}
		return l.Each(func(e Entry) error {
			reason, on := full.on[string(e.Serial)]
			if e.Reason == removeFromCRL && on || e.Reason != removeFromCRL && (!on || reason != e.Reason) {
				c.add("crl-delta-entry", object, "its entry for serial number %x contradicts the list", e.Serial)
			}
			return nil
		})
	})
}

// number is a list's number as it is now, 0 without a list.
func (c *checker) number(ctx context.Context, authority string, shard int) (int64, error) {
	rows, err := c.store.ListRows(ctx, authority, shard)
	return rows.Number, err
}

// filters checks that a filter is what was signed under its row's sequence, and
// answers as the table does. One that is over says nothing any more.
func (c *checker) filters(ctx context.Context) error {
	return c.store.EachFilter(ctx, func(row StoredFilter) error {
		object := "crl_filters " + row.Authority
		a, ok := c.authorities[row.Authority]
		if !ok {
			c.add("crl-filter-authority", object, "there is no active authority of that name")
			return nil
		}
		v := filter.NewVerifier(a.Cert, 0)
		err := v.Load(row.File, c.now)
		if err == nil && row.Delta != nil {
			err = v.Load(row.Delta, c.now)
		}
		newest, changes := v.Headers()
		if changes != nil {
			newest = changes
		}
		switch {
		case err != nil && !row.NextUpdate.After(c.now):
			return nil
		case err != nil:
			c.add("crl-filter-verifies", object, "%v", err)
			return nil
		case row.Sequence != int64(newest.Sequence) || row.Size != int64(newest.Size) || !row.NextUpdate.Equal(newest.NextUpdate):
			c.add("crl-filter-row", object, "the row says sequence %d to %s over %d leaves, the filter %d to %s over %d", row.Sequence, row.NextUpdate.Format(timeForm), row.Size,
				newest.Sequence, newest.NextUpdate.Format(timeForm), newest.Size)
		}
		return c.store.EachRevocation(ctx, func(r Revocation, bad error) error {
			if bad != nil || r.Authority != row.Authority || r.Leaf >= int64(newest.Size) {
				return nil
			}
			want := filter.Revoked
			if !r.ReleasedAt.IsZero() {
				want = filter.Good
			}
			if got := v.Logged(r.Serial[:], 0, c.now); got != want {
				c.add("crl-filter-entry", object, "it says %s of %s, the table %s", got, r.Serial, want)
			}
			return nil
		})
	})
}
