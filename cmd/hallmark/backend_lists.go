package main

import (
	"context"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/crl"
)

type listKey struct {
	authority string
	shard     int
}

// listFacts is what only the octets of a list tell; they are read once a number.
type listFacts struct {
	number  int64
	entries int64
	size    int64
}

func (b *backend) listView(ctx context.Context, h crl.ListHead, base string) (adminapi.List, error) {
	f, err := b.listFacts(ctx, h)
	return adminapi.List{
		Authority: h.Authority, Shard: h.Shard, Number: h.Number, ThisUpdate: h.ThisUpdate, NextUpdate: h.NextUpdate, Covers: h.Leaf,
		Entries: f.entries, Size: f.size, Url: profile.ListURL(base, h.Shard),
	}, err
}

func (b *backend) listFacts(ctx context.Context, h crl.ListHead) (listFacts, error) {
	key := listKey{h.Authority, h.Shard}
	b.mu.Lock()
	f, ok := b.facts[key]
	b.mu.Unlock()
	if ok && f.number == h.Number {
		return f, nil
	}
	row, err := b.db.List(ctx, h.Authority, h.Shard, h.Number-1)
	if err != nil || row == nil || row.DER == nil { // a restored table is behind what is served until the next list
		return listFacts{}, err
	}
	l, err := crl.ParseList(row.DER)
	if err != nil {
		return listFacts{}, err
	}
	f = listFacts{number: l.Number, entries: int64(l.Count), size: int64(len(l.DER))}
	b.mu.Lock()
	b.facts[key] = f
	b.mu.Unlock()
	return f, nil
}

// Lists implements [web.Trust]: what is served, not what the table has.
func (b *backend) Lists(ctx context.Context, s access.Scope) (out []adminapi.List, err error) {
	for _, h := range b.lists.Lists() {
		a, err := b.ours(s, h.Authority)
		if err != nil {
			continue
		}
		v, err := b.listView(ctx, h, a.ListBase())
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// PutRootList implements [web.Trust].
func (b *backend) PutRootList(ctx context.Context, by access.Actor, authority string, r adminapi.RootListRequest) (adminapi.List, error) {
	a, err := b.ours(by.Scope(), authority)
	if err != nil {
		return adminapi.List{}, err
	}
	h, err := b.lists.InstallRootList(ctx, authority, []byte(r.List))
	if err != nil {
		return adminapi.List{}, err
	}
	b.log.InfoContext(ctx, "root list published", "authority", authority, "number", h.Number, "by", by.String())
	return b.listView(ctx, h, a.ListBase())
}

// Proof implements [web.Log]. It is verified before it is given away.
func (b *backend) Proof(ctx context.Context, s access.Scope, serial string) (adminapi.LogProof, error) {
	r, err := b.record(ctx, s, serial)
	if err != nil {
		return adminapi.LogProof{}, err
	}
	if r.DER == nil {
		return adminapi.LogProof{}, tlog.ErrPending.New("The serial number has no certificate yet.")
	}
	c, err := b.tlog.Checkpoint(ctx)
	if err != nil {
		return adminapi.LogProof{}, err
	}
	if r.Leaf >= c.Size {
		return adminapi.LogProof{}, tlog.ErrPending.New("Leaf %d, the checkpoint has %d.", r.Leaf, c.Size)
	}
	entries, err := b.db.Entries(ctx, r.Leaf, r.Leaf+1)
	if err != nil {
		return adminapi.LogProof{}, err
	}
	hashes, err := b.tlog.InclusionProof(ctx, r.Leaf, c.Size)
	if err != nil {
		return adminapi.LogProof{}, err
	}
	if err := merkle.CheckRecord(hashes, c.Size, c.Root, r.Leaf, tlog.MerkleLeaf(entries[0])); err != nil {
		return adminapi.LogProof{}, tlog.ErrCorrupt.Wrap(err, "Leaf %d is not what was integrated.", r.Leaf)
	}
	out := adminapi.LogProof{Serial: r.Serial.String(), Index: r.Leaf, Size: c.Size, Leaf: entries[0][:], Hashes: make([][]byte, len(hashes)), Checkpoint: string(c.Note)}
	for i := range hashes {
		out.Hashes[i] = hashes[i][:]
	}
	return out, nil
}
