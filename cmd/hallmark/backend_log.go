package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/fault"
	"hallmark/web"
)

var errNoReport = fault.Define(fault.Unavailable, "order-report-unavailable", "There is no completion report yet.", "Ask again when the service has made a checkpoint over all leaves of the order.")

// LogState implements [web.Log]. A log that nothing was written to yet is empty
// and not a failure.
func (b *backend) LogState(ctx context.Context, _ access.Scope) (adminapi.LogState, error) {
	c, err := b.tlog.Checkpoint(ctx)
	if err != nil && !errors.Is(err, tlog.ErrPending) {
		return adminapi.LogState{}, err
	}
	v := adminapi.LogState{Size: c.Size, Root: c.Root[:], Checkpoint: string(c.Note), VerifierKey: b.tlog.VerifierKey(), Origin: b.tlog.Origin(), Url: b.cfg.logURL()}
	if v.Head, err = b.db.Head(ctx); err != nil {
		return v, err
	}
	if b.logs == nil {
		return v, nil
	}
	_, v.SignedAt, _ = b.logs.state()
	if b.logs.group == nil {
		return v, nil
	}
	v.Quorum = b.logs.group.Policy().Quorum
	keys := b.logs.group.Policy().Witnesses
	for i, m := range b.logs.group.State() {
		w := adminapi.LogWitness{Name: m.Name, Url: m.URL, Key: keys[i], Size: m.Size, SignedAt: m.SignedAt, Failures: m.Failures}
		if m.Err != nil {
			w.Error = fault.From(m.Err).Code
		}
		v.Witnesses = append(v.Witnesses, w)
	}
	return v, nil
}

func leafView(r *tlog.Row) adminapi.LogLeaf {
	v := adminapi.LogLeaf{Index: r.Index, Entry: r.Entry[:], Foreign: r.Foreign}
	if r.Foreign {
		if r.Type == tlog.Lost {
			v.Type = string(r.Type)
		}
		return v
	}
	v.Type, v.Tenant, v.Account, v.Holder, v.Shown = string(r.Type), r.Tenant, r.Account, r.Holder, r.Shown
	v.Subject, v.Salt, v.At, v.Serial, v.Genuine = r.Subject[:], r.Salt[:], r.At, hex.EncodeToString(r.Serial), r.Genuine
	v.Profile, v.Requester, v.Operator, v.Tool = r.Profile, r.Requester, r.Operator, r.Tool
	if c := r.Certificate; c != nil {
		v.Certificate = adminapi.LogLeafCertificate{Sum: c.Sum[:], Leaf: c.Leaf, IssuedAt: c.IssuedAt, Account: c.Account, Holder: c.Holder}
	}
	return v
}

// rowOf is the reverse of leafView, for the commands.
func rowOf(v *adminapi.LogLeaf) tlog.Row {
	r := tlog.Row{Foreign: v.Foreign, At: v.At, Genuine: v.Genuine, Shown: v.Shown, Profile: v.Profile, Requester: v.Requester, Operator: v.Operator, Tool: v.Tool}
	r.Leaf = tlog.Leaf{Index: v.Index, Type: tlog.Event(v.Type), Tenant: v.Tenant, Account: v.Account, Holder: v.Holder, At: v.At.Unix()}
	copy(r.Entry[:], v.Entry)
	copy(r.Subject[:], v.Subject)
	copy(r.Salt[:], v.Salt)
	r.Serial, _ = hex.DecodeString(v.Serial)
	if c := v.Certificate; len(c.Sum) > 0 {
		r.Certificate = &tlog.RowCertificate{Leaf: c.Leaf, IssuedAt: c.IssuedAt, Account: c.Account, Holder: c.Holder}
		copy(r.Certificate.Sum[:], c.Sum)
	}
	return r
}

// Leaves implements [web.Log]. Of other tenants' leaves only what is public is
// told: that they are there, and their entry.
func (b *backend) Leaves(ctx context.Context, s access.Scope, from int64, limit int) ([]adminapi.LogLeaf, error) {
	to := from + int64(limit)
	ours, err := b.db.LogRows(ctx, s, from, limit)
	if err != nil {
		return nil, err
	}
	entries, err := b.db.LogEntries(ctx, from, to)
	if err != nil {
		return nil, err
	}
	out := make([]adminapi.LogLeaf, 0, len(entries))
	for _, e := range entries {
		for len(ours) > 0 && ours[0].Index < e.Index {
			ours = ours[1:]
		}
		if len(ours) > 0 && ours[0].Index == e.Index {
			out = append(out, leafView(&ours[0]))
		} else {
			out = append(out, leafView(&tlog.Row{Leaf: e, Foreign: true}))
		}
	}
	return out, nil
}

func (b *backend) orderRows(ctx context.Context, s access.Scope, order string) func(after string, n int) ([]tlog.Row, error) {
	return func(after string, n int) ([]tlog.Row, error) {
		from := int64(0)
		if after != "" {
			last, err := strconv.ParseInt(after, 10, 64)
			if err != nil {
				return nil, web.ErrCursor.Wrap(err, "")
			}
			from = last + 1
		}
		return b.db.OrderRows(ctx, s, order, from, n)
	}
}

func rowPosition(r *tlog.Row) string { return strconv.FormatInt(r.Index, 10) }

// OrderLeaves implements [web.Log].
func (b *backend) OrderLeaves(ctx context.Context, s access.Scope, order string, p web.Page) ([]adminapi.LogLeaf, string, error) {
	if _, err := b.prov.Order(ctx, s, order); err != nil {
		return nil, "", err
	}
	rows, next, err := collect(p.After, p.Limit, b.orderRows(ctx, s, order), rowPosition, nil)
	return mapped(rows, leafView), next, err
}

// Receipt implements [web.Log]. It is verified before it is given away.
func (b *backend) Receipt(ctx context.Context, s access.Scope, serial string, size int64) (v adminapi.LogReceipt, err error) {
	r, err := b.record(ctx, s, serial)
	if err != nil {
		return v, err
	}
	if r.DER == nil {
		return v, tlog.ErrPending.New("The serial number has no certificate yet.")
	}
	row, err := b.db.LogLeaf(ctx, s, r.Leaf)
	if err != nil {
		return v, err
	}
	if row == nil {
		return v, tlog.ErrCorrupt.New("Leaf %d is missing.", r.Leaf)
	}
	receipt, err := b.receiptOf(ctx, row.Leaf, size)
	if err != nil {
		return v, err
	}
	receipt.Certificate = r.DER
	text, err := json.Marshal(receipt)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(text, &v) // the contract's receipt and the domain's are the same JSON
}

func (b *backend) receiptOf(ctx context.Context, leaf tlog.Leaf, size int64) (*tlog.Receipt, error) {
	switch {
	case size > 0:
		proof, err := b.tlog.InclusionProof(ctx, leaf.Index, size)
		return &tlog.Receipt{Leaf: leaf, Proof: proof}, err
	case b.logs != nil:
		return b.logs.receipt(ctx, leaf)
	}
	return b.tlog.Receipt(ctx, leaf)
}
