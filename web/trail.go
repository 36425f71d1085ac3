package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"unicode/utf8"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Trail is the record of what people did.
type Trail interface {
	Trail(ctx context.Context, s access.Scope, q TrailQuery, p Page) (items []adminapi.TrailRow, next string, err error)
	// TrailRows gives rows of the whole chain, those of other tenants without content.
	TrailRows(ctx context.Context, s access.Scope, from int64, limit int) ([]adminapi.TrailRow, error)
}

// TrailQuery selects entries; empty fields do not filter.
type TrailQuery struct {
	Actor, Action string
	Since, Until  int64 // Unix seconds
}

// aboutNames are the members of a request's body whose text goes into the trail, so
// that it says who was made what without the body. None of them is ever a secret.
var aboutNames = []string{"name", "id", "role", "station", "site", "unit", "order", "product", "thing", "device", "authority", "template", "policy", "profile", "certificate_id", "reason", "status", "state"}

const (
	maxAbout = 128 // octets of a text, and of a path: the rest is in the digest
	maxOn    = 256
)

// recorded does a request with its entry in the trail.
func (p *people) recorded(ctx context.Context, r *http.Request, who access.Principal, route *Route, do func(ctx context.Context) error) error {
	return Recorded(ctx, p.Trail, r, who, route.Action, do)
}

// Recorded does what somebody asks for with its entry in the trail, see
// [access.Recorded]. The console and the API do so alike.
func Recorded(ctx context.Context, w access.TrailWriter, r *http.Request, who access.Principal, a access.Action, do func(ctx context.Context) error) error {
	e := access.TrailEntry{Tenant: who.Tenant, Actor: who.Actor().String(), Role: who.Role, Token: access.TokenID(who.TokenHash), Action: a,
		On: cut(r.Method+" "+r.URL.Path, maxOn), Request: RequestID(ctx), From: RemoteAddr(r).String()}
	return access.Recorded(ctx, w, e, func(err error) string { return faultOf(err).Code }, do)
}

// cut shortens a text without breaking a character.
func cut(s string, n int) string {
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// noteBody puts the digest of the body and the names in it into the entry.
func (c *call) noteBody(data []byte, doc any) {
	sum := sha256.Sum256(data)
	about := map[string]string{}
	if object, ok := doc.(map[string]any); ok {
		for _, name := range aboutNames {
			if text, ok := object[name].(string); ok && text != "" {
				about[name] = cut(text, maxAbout)
			}
		}
	}
	access.RecordFrom(c.Request().Context()).Note(func(e *access.TrailEntry) {
		e.Body = hex.EncodeToString(sum[:])
		if len(about) > 0 {
			e.About = about
		}
	})
}

// NoteApproval puts the request for approval that an action is about into its entry.
func NoteApproval(ctx context.Context, id string) {
	access.RecordFrom(ctx).Note(func(e *access.TrailEntry) { e.Approval = id })
}

func (p *people) listTrail(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	q := TrailQuery{Actor: c.query.Get("actor"), Action: c.query.Get("action"), Since: c.number("since", 0), Until: c.number("until", 0)}
	items, next, err := p.Backend.Trail.Trail(c.Request().Context(), c.scope, q, page)
	return adminapi.TrailPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) listTrailRows(c *call) (any, error) {
	items, err := p.Backend.Trail.TrailRows(c.Request().Context(), c.scope, c.number("from", 1), int(c.number("limit", defaultLeaves)))
	return adminapi.TrailPage{Items: list(items)}, err
}
