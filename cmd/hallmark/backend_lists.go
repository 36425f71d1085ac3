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

func listView(l *crl.PublishedList, base string) adminapi.List {
	return adminapi.List{
		Authority: l.Authority, Shard: l.Shard, Number: l.Number, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, Covers: l.Leaf,
		Entries: int64(l.Entries), Size: l.Octets, Url: profile.ListURL(base, l.Shard),
	}
}

// Lists implements [web.Trust]: what is served, not what the table has.
func (b *backend) Lists(_ context.Context, s access.Scope) (out []adminapi.List, err error) {
	all := b.lists.Lists()
	for i := range all {
		a, err := b.ours(s, all[i].Authority)
		if err != nil {
			continue
		}
		out = append(out, listView(&all[i], a.ListBase()))
	}
	return out, nil
}

// PublishLists implements [web.Trust].
func (b *backend) PublishLists(ctx context.Context, by access.Actor, authority string) (out []adminapi.List, err error) {
	a, err := b.ours(by.Scope(), authority)
	if err != nil {
		return nil, err
	}
	all, err := b.lists.PublishAll(ctx, authority)
	if err != nil {
		return nil, err
	}
	for i := range all {
		out = append(out, listView(&all[i], a.ListBase()))
	}
	b.log.InfoContext(ctx, "lists published on demand", "authority", authority, "lists", len(all), "by", by.String())
	return out, nil
}

// ListDestinations implements [web.Trust].
func (b *backend) ListDestinations(context.Context) (out []adminapi.ListDestination, err error) {
	for _, d := range b.sender.States() {
		out = append(out, adminapi.ListDestination{Name: d.Name, Pending: d.Pending, Sent: d.Sent, Failed: d.Failed, LastSuccess: d.Last, Fault: d.Fault})
	}
	return out, nil
}

// ListImports implements [web.Trust].
func (b *backend) ListImports(context.Context) (out []adminapi.ListImport, err error) {
	for _, i := range b.imports.States() {
		out = append(out, adminapi.ListImport{Name: i.Name, Number: i.Number, Entries: i.Entries, NextUpdate: i.NextUpdate, FetchedAt: i.Fetched, Current: i.Current, Fault: i.Fault})
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
	for _, l := range b.lists.Lists() {
		if l.Authority == authority {
			return listView(&l, a.ListBase()), nil
		}
	}
	return adminapi.List{}, crl.ErrListMissing.New("Authority %s.", authority)
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
