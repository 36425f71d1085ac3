package webtest

import (
	"context"
	"encoding/hex"
	"encoding/json"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

var (
	_ access.TrailWriter = (*Fake)(nil)
	_ web.Trail          = (*Fake)(nil)
)

// AppendTrail implements [access.TrailWriter].
func (f *Fake) AppendTrail(_ context.Context, e access.TrailEntry) error {
	f.trail.Lock()
	defer f.trail.Unlock()
	if f.NoTrail != nil {
		return f.NoTrail
	}
	f.entries = append(f.entries, e)
	return nil
}

// Entries is what is in the trail.
func (f *Fake) Entries() []access.TrailEntry {
	f.trail.Lock()
	defer f.trail.Unlock()
	return append([]access.TrailEntry(nil), f.entries...)
}

func (f *Fake) rows() (out []adminapi.TrailRow) {
	var head access.TrailHead
	for _, e := range f.Entries() {
		raw, _ := json.Marshal(e) // texts and times always have a form
		head = head.Next(raw)
		out = append(out, adminapi.TrailRow{Seq: head.Seq, Hash: hex.EncodeToString(head.Hash[:]), Entry: raw})
	}
	return out
}

// Trail implements [web.Trail].
func (f *Fake) Trail(_ context.Context, s access.Scope, _ web.TrailQuery, p web.Page) ([]adminapi.TrailRow, string, error) {
	return cut(s, f.rows(), p)
}

// TrailRows implements [web.Trail].
func (f *Fake) TrailRows(_ context.Context, s access.Scope, from int64, limit int) (out []adminapi.TrailRow, err error) {
	for _, r := range f.rows() {
		if r.Seq >= from && len(out) < limit && s.Tenant == Tenant {
			out = append(out, r)
		}
	}
	return out, nil
}
