package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
	"hallmark/web"
)

func (b *backend) thingView(ctx context.Context, s access.Scope, t *registry.Thing) (adminapi.Thing, error) {
	v := adminapi.Thing{
		Name: string(t.Name), Holder: t.Holder, Type: t.Type, Attributes: t.Attributes, Groups: nonNil(t.Groups), BillingGroup: t.BillingGroup, Policies: nonNil(t.Policies),
		Configuration: t.Configuration, RegisteredBy: t.RegisteredBy, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt, Version: t.Version, Principals: []adminapi.ThingPrincipal{},
	}
	if v.Attributes == nil {
		v.Attributes = map[string]string{}
	}
	principals, err := b.reg.Principals(ctx, s, t.Name)
	for _, p := range principals {
		v.Principals = append(v.Principals, principalView(&p))
	}
	if err != nil {
		return v, err
	}
	states, err := b.db.Presence(ctx, s, t.Name)
	v.Connectivity = connectivity(states)
	return v, err
}

// Things implements [web.Registry].
func (b *backend) Things(ctx context.Context, s access.Scope, attribute, value string, p web.Page) ([]adminapi.Thing, string, error) {
	page, err := b.reg.List(ctx, s, registry.Query{Attribute: attribute, Prefix: value, Cursor: p.After, Limit: p.Limit})
	if err != nil {
		return nil, "", err
	}
	out := make([]adminapi.Thing, len(page.Things))
	for i := range page.Things {
		if out[i], err = b.thingView(ctx, s, &page.Things[i]); err != nil {
			return nil, "", err
		}
	}
	return out, page.Next, nil
}

// Thing implements [web.Registry].
func (b *backend) Thing(ctx context.Context, s access.Scope, name string) (adminapi.Thing, error) {
	n, err := fleet.ParseThingName(name)
	if err != nil {
		return adminapi.Thing{}, err
	}
	t, err := b.reg.Get(ctx, s, n)
	if err != nil {
		return adminapi.Thing{}, err
	}
	v, err := b.thingView(ctx, s, &t)
	if err == nil {
		v.DynamicGroups, err = b.reg.DynamicGroupsOf(ctx, s, n)
	}
	return v, err
}

func templateView(d *provisioner.TemplateDocument) adminapi.Template {
	return adminapi.Template{Name: d.Name, Kind: d.Kind, UpdatedAt: d.UpdatedAt}
}

// Templates implements [web.Registry].
func (b *backend) Templates(ctx context.Context, s access.Scope) ([]adminapi.Template, error) {
	rows, err := b.db.Templates(ctx, s)
	return mapped(rows, templateView), err
}

// Template implements [web.Registry].
func (b *backend) Template(ctx context.Context, s access.Scope, name string) (adminapi.Template, error) {
	d, err := b.db.Template(ctx, s, name)
	if err != nil {
		return adminapi.Template{}, err
	}
	v := templateView(&d)
	v.Body = string(d.Body)
	return v, nil
}

// PutTemplate implements [web.Registry].
func (b *backend) PutTemplate(ctx context.Context, by access.Actor, name string, r adminapi.TemplateRequest) (adminapi.Template, error) {
	if err := b.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: by.Tenant, Name: name, Kind: r.Kind, Body: []byte(r.Body)}); err != nil {
		return adminapi.Template{}, err
	}
	b.log.InfoContext(ctx, "template stored", "template", name, "by", by.String())
	return b.Template(ctx, by.Scope(), name)
}

func hookView(h *provisioner.HookDocument) adminapi.Hook {
	v := adminapi.Hook{Name: h.Name, Url: h.URL, Allow: []string{}, Roots: string(h.Roots), UpdatedAt: h.UpdatedAt}
	for _, a := range h.Allow {
		v.Allow = append(v.Allow, a.String())
	}
	for _, s := range h.Secrets {
		v.KeyIds = append(v.KeyIds, s.KeyID)
	}
	return v
}

// Hooks implements [web.Registry].
func (b *backend) Hooks(ctx context.Context, s access.Scope) ([]adminapi.Hook, error) {
	rows, err := b.db.Hooks(ctx, s)
	return mapped(rows, hookView), err
}

// hookKeySize is that of the HMAC's hash.
const hookKeySize = 32

// PutHook implements [web.Registry]. A new hook, and one whose secret is
// rotated, gets a secret that this answer alone shows; the one before it stays
// good until the next rotation.
func (b *backend) PutHook(ctx context.Context, by access.Actor, name string, r adminapi.HookRequest) (adminapi.Hook, error) {
	if err := b.secondForHook(ctx, by, name, r); err != nil {
		return adminapi.Hook{}, err
	}
	h := provisioner.HookDocument{Tenant: by.Tenant, Name: name, URL: r.Url, Roots: []byte(r.Roots)}
	for _, text := range r.Allow {
		p, err := prefix(text)
		if err != nil {
			return adminapi.Hook{}, web.ErrInput.Wrap(err, "allow: %.64q is neither an address nor a prefix such as 10.1.0.0/16.", text)
		}
		h.Allow = append(h.Allow, p)
	}
	b.change.Lock()
	defer b.change.Unlock()
	have, err := b.db.Hook(ctx, by.Scope(), name)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return adminapi.Hook{}, err
	}
	h.Secrets = have.Secrets
	if r.Roots == "" {
		if h.Roots, err = b.hookRoots(); err != nil {
			return adminapi.Hook{}, err
		}
	}
	var fresh string
	if r.Rotate || len(h.Secrets) == 0 {
		s := newHookSecret()
		fresh = base64.StdEncoding.EncodeToString(s.Key)
		h.Secrets = append([]hook.Secret{s}, h.Secrets[:min(len(h.Secrets), 1)]...)
	}
	if err := b.planner.PutHook(ctx, h); err != nil {
		return adminapi.Hook{}, err
	}
	b.log.InfoContext(ctx, "hook stored", "hook", name, "url", h.URL, "new_secret", fresh != "", "by", by.String())
	if h, err = b.db.Hook(ctx, by.Scope(), name); err != nil {
		return adminapi.Hook{}, err
	}
	v := hookView(&h)
	v.Secret = fresh
	return v, nil
}

// newHookSecret draws a key and a name for it.
func newHookSecret() hook.Secret {
	key, id := make([]byte, hookKeySize), make([]byte, 8)
	rand.Read(key)
	rand.Read(id)
	return hook.Secret{KeyID: hex.EncodeToString(id), Key: key}
}

// prefix reads an address prefix, or an address as the prefix of it alone.
func prefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Prefix(a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// hookRoots are the configured roots of the hooks' servers.
func (b *backend) hookRoots() ([]byte, error) {
	file := b.cfg.HookRoots
	if file == "" {
		return nil, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(b.cfg.dir, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, errConfig.Wrap(err, "hook_roots: the file cannot be read.")
	}
	return data, nil
}

func registrationView(g *provisioner.Registration) adminapi.RegistrationRule {
	return adminapi.RegistrationRule{Authority: g.Authority, Template: g.Template, Hook: g.Hook, TakeOver: g.TakeOver, Enabled: g.Enabled, UpdatedAt: g.UpdatedAt}
}

// Registrations implements [web.Registry].
func (b *backend) Registrations(ctx context.Context, s access.Scope) ([]adminapi.RegistrationRule, error) {
	rows, err := b.db.Registrations(ctx, s)
	return mapped(rows, registrationView), err
}

// PutRegistration implements [web.Registry].
func (b *backend) PutRegistration(ctx context.Context, by access.Actor, authority string, r adminapi.RegistrationRequest) (adminapi.RegistrationRule, error) {
	a, err := b.ours(by.Scope(), authority)
	if err != nil {
		return adminapi.RegistrationRule{}, err
	}
	if a.Duty != profile.DutyDevice {
		return adminapi.RegistrationRule{}, ca.ErrNoAuthority.New("%s has the duty %s and certifies no devices.", authority, a.Duty)
	}
	g := provisioner.Registration{Tenant: by.Tenant, Authority: authority, Template: r.Template, Hook: r.Hook, TakeOver: r.TakeOver, Enabled: r.Enabled}
	if err := b.planner.PutRegistration(ctx, g); err != nil {
		return adminapi.RegistrationRule{}, err
	}
	b.log.InfoContext(ctx, "registration stored", "authority", authority, "template", r.Template, "hook", r.Hook, "take_over", r.TakeOver, "enabled", r.Enabled, "by", by.String())
	if g, err = b.db.Registration(ctx, by.Scope(), authority); err != nil {
		return adminapi.RegistrationRule{}, err
	}
	return registrationView(&g), nil
}
