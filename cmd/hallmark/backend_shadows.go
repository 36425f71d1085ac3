package main

import (
	"context"
	"encoding/json"
	"errors"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/shadow"
	"hallmark/web"
)

func shadowKey(tenant, thing, name string) shadow.Key {
	return shadow.Key{Tenant: tenant, Thing: fleet.ThingName(thing), Name: name}
}

// Shadow implements [web.Shadows].
func (b *backend) Shadow(ctx context.Context, s access.Scope, thing, name string) (adminapi.Shadow, error) {
	raw, err := b.shadows.Get(ctx, shadowKey(s.Tenant, thing, name))
	if err != nil {
		return adminapi.Shadow{}, err
	}
	v := adminapi.Shadow{Thing: thing, Name: name}
	var doc struct {
		State    json.RawMessage `json:"state"`
		Metadata json.RawMessage `json:"metadata"`
		Version  int64           `json:"version"`
	}
	err = json.Unmarshal(raw, &doc)
	v.State, v.Metadata, v.Version = doc.State, doc.Metadata, doc.Version
	return v, err
}

// UpdateShadow implements [web.Shadows]. A device makes shadows of any name that
// its policy allows; a person may only tell a thing that exists what it should
// be, so that a name that was misspelt is noticed.
func (b *backend) UpdateShadow(ctx context.Context, by access.Actor, thing, name string, r adminapi.ShadowRequest) (adminapi.Shadow, error) {
	known, err := b.knownThing(ctx, by.Scope(), thing)
	if err != nil {
		return adminapi.Shadow{}, err
	}
	change := map[string]any{"state": map[string]json.RawMessage{"desired": r.Desired}}
	if r.Version != 0 {
		change["version"] = r.Version
	}
	payload, err := json.Marshal(change)
	if err != nil {
		return adminapi.Shadow{}, shadow.ErrJSON.Wrap(err, "")
	}
	if _, err := b.shadows.Update(ctx, shadowKey(by.Tenant, string(known), name), payload); err != nil && !b.told(ctx, err) {
		return adminapi.Shadow{}, err
	}
	b.log.InfoContext(ctx, "shadow changed", "thing", known, "shadow", name, "by", by.String())
	return b.Shadow(ctx, by.Scope(), string(known), name)
}

// told tells whether an error is about the telling only: the change is stored.
func (b *backend) told(ctx context.Context, err error) bool {
	if !errors.Is(err, shadow.ErrUndelivered) {
		return false
	}
	b.log.ErrorContext(ctx, "a change of a shadow was not told to everybody", "error", err)
	return true
}

// DeleteShadow implements [web.Shadows].
func (b *backend) DeleteShadow(ctx context.Context, by access.Actor, thing, name string) (adminapi.Shadow, error) {
	v, err := b.Shadow(ctx, by.Scope(), thing, name)
	if err != nil {
		return v, err
	}
	if _, err := b.shadows.Delete(ctx, shadowKey(by.Tenant, thing, name)); err != nil && !b.told(ctx, err) {
		return adminapi.Shadow{}, err
	}
	b.log.InfoContext(ctx, "shadow deleted", "thing", thing, "shadow", name, "by", by.String())
	return v, nil
}

// Shadows implements [web.Shadows].
func (b *backend) Shadows(ctx context.Context, s access.Scope, thing string, p web.Page) (adminapi.ShadowPage, error) {
	known, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return adminapi.ShadowPage{}, err
	}
	page, err := b.shadows.ListNamed(ctx, s.Tenant, known, p.After, p.Limit)
	if err != nil {
		return adminapi.ShadowPage{}, err
	}
	_, err = b.shadows.Get(ctx, shadowKey(s.Tenant, string(known), ""))
	switch {
	case errors.Is(err, shadow.ErrUnknown):
		return adminapi.ShadowPage{Items: page.Results, Next: page.NextToken}, nil
	case err != nil:
		return adminapi.ShadowPage{}, err
	}
	return adminapi.ShadowPage{Classic: true, Items: page.Results, Next: page.NextToken}, nil
}
