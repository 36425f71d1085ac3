package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"

	"hallmark/access"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

var _ provisioner.RegistrationStore = (*DB)(nil)

const registrationColumns = `tenant, authority, template, hook, take_over, enabled, updated_at, mac`

func registrationFields(r *provisioner.Registration, at int64) [][]byte {
	return [][]byte{[]byte(r.Tenant), []byte(r.Authority), []byte(r.Template), []byte(r.Hook), []byte(strconv.FormatBool(r.TakeOver)), []byte(strconv.FormatBool(r.Enabled)), []byte(strconv.FormatInt(at, 10))}
}

func (db *DB) scanRegistration(r row) (g provisioner.Registration, err error) {
	var takeOver, enabled, at int64
	var mac []byte
	if err := r.Scan(&g.Tenant, &g.Authority, &g.Template, &g.Hook, &takeOver, &enabled, &at, &mac); err != nil {
		return g, err
	}
	g.TakeOver, g.Enabled, g.UpdatedAt = takeOver != 0, enabled != 0, timeOf(at)
	if err := db.cfg.Seal.Verify(mac, "registrations", registrationFields(&g, at)...); err != nil || takeOver>>1 != 0 || enabled>>1 != 0 {
		return g, ErrRowTampered.Wrap(err, "Table registrations, row %s.", g.Authority)
	}
	return g, nil
}

// Registration implements [provisioner.RegistrationStore].
func (db *DB) Registration(ctx context.Context, s access.Scope, authority string) (provisioner.Registration, error) {
	g, err := db.scanRegistration(db.queryRow(ctx, `SELECT `+registrationColumns+` FROM registrations WHERE tenant = $1 AND authority = $2`, s.Tenant, authority))
	return g, notFound(err, "The authority %s has no registration.", authority)
}

// Registrations implements [provisioner.RegistrationStore].
func (db *DB) Registrations(ctx context.Context, s access.Scope) (out []provisioner.Registration, err error) {
	rows, err := db.query(ctx, `SELECT `+registrationColumns+` FROM registrations WHERE tenant = $1 ORDER BY authority`, s.Tenant)
	err = each(rows, err, func(r row) error {
		g, err := db.scanRegistration(r)
		out = append(out, g)
		return err
	})
	return out, err
}

// PutRegistration implements [provisioner.RegistrationStore].
func (db *DB) PutRegistration(ctx context.Context, g provisioner.Registration) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		at := millis(g.UpdatedAt)
		mac := db.cfg.Seal.MAC("registrations", registrationFields(&g, at)...)
		old, err := db.oldMAC(ctx, `SELECT mac FROM registrations WHERE authority = $1 AND tenant = $2`, g.Authority, g.Tenant)
		if err != nil {
			return err
		}
		// An authority of ours has one tenant; a CA that was brought along may have
		// several (S23), and its name is its id.
		if _, err := registry.ParseCertificateID(g.Authority); err != nil {
			var elsewhere bool
			if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM registrations WHERE authority = $1 AND tenant <> $2)`, g.Authority, g.Tenant).Scan(&elsewhere); err != nil {
				return err
			}
			if elsewhere {
				return ErrExists.New("The authority %s is registered by another tenant.", g.Authority)
			}
		}
		n, err := db.exec(ctx, `INSERT INTO registrations (`+registrationColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (tenant, authority) DO UPDATE SET template = excluded.template, hook = excluded.hook, take_over = excluded.take_over, enabled = excluded.enabled, updated_at = excluded.updated_at, mac = excluded.mac
			WHERE registrations.mac = $9`,
			g.Tenant, g.Authority, g.Template, g.Hook, flag(g.TakeOver), flag(g.Enabled), at, mac, notNull(old))
		if err == nil && n != 1 {
			return errStale
		}
		txFrom(ctx).reseal("registrations", pair(g.Tenant, g.Authority), old, mac)
		return err
	})
}

// oldMAC reads the MAC of the row that an upsert will replace, nil if there is
// none; the upsert repeats it as its condition.
func (db *DB) oldMAC(ctx context.Context, query string, args ...any) (mac []byte, err error) {
	if err = db.queryRow(ctx, query, args...).Scan(&mac); errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return mac, err
}

func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

const templateColumns = `tenant, name, kind, body, updated_at, mac`

func templateFields(d *provisioner.TemplateDocument, at int64) [][]byte {
	return [][]byte{[]byte(d.Tenant), []byte(d.Name), []byte(d.Kind), d.Body, []byte(strconv.FormatInt(at, 10))}
}

func (db *DB) scanTemplate(r row) (d provisioner.TemplateDocument, err error) {
	var at int64
	var mac []byte
	if err := r.Scan(&d.Tenant, &d.Name, &d.Kind, &d.Body, &at, &mac); err != nil {
		return d, err
	}
	d.UpdatedAt = timeOf(at)
	if err := db.cfg.Seal.Verify(mac, "templates", templateFields(&d, at)...); err != nil {
		return d, ErrRowTampered.Wrap(err, "Table templates, row %s/%s.", d.Tenant, d.Name)
	}
	return d, nil
}

// Template implements [provisioner.RegistrationStore].
func (db *DB) Template(ctx context.Context, s access.Scope, name string) (provisioner.TemplateDocument, error) {
	d, err := db.scanTemplate(db.queryRow(ctx, `SELECT `+templateColumns+` FROM templates WHERE tenant = $1 AND name = $2`, s.Tenant, name))
	return d, notFound(err, "There is no template %s.", name)
}

// Templates implements [provisioner.RegistrationStore].
func (db *DB) Templates(ctx context.Context, s access.Scope) (out []provisioner.TemplateDocument, err error) {
	rows, err := db.query(ctx, `SELECT `+templateColumns+` FROM templates WHERE tenant = $1 ORDER BY name`, s.Tenant)
	err = each(rows, err, func(r row) error {
		d, err := db.scanTemplate(r)
		out = append(out, d)
		return err
	})
	return out, err
}

// PutTemplate implements [provisioner.RegistrationStore].
func (db *DB) PutTemplate(ctx context.Context, d provisioner.TemplateDocument) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		at := millis(d.UpdatedAt)
		mac := db.cfg.Seal.MAC("templates", templateFields(&d, at)...)
		old, err := db.oldMAC(ctx, `SELECT mac FROM templates WHERE tenant = $1 AND name = $2`, d.Tenant, d.Name)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO templates (`+templateColumns+`) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant, name) DO UPDATE SET kind = excluded.kind, body = excluded.body, updated_at = excluded.updated_at, mac = excluded.mac WHERE templates.mac = $7`,
			d.Tenant, d.Name, d.Kind, d.Body, at, mac, notNull(old))
		if err == nil && n != 1 {
			return errStale
		}
		txFrom(ctx).reseal("templates", pair(d.Tenant, d.Name), old, mac)
		return err
	})
}

const hookColumns = `tenant, name, url, allow, secrets, roots, updated_at, mac`

// hookSecret is a secret's form inside the sealed column.
type hookSecret struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

func (db *DB) hookMAC(tenant, name, url, allow string, secrets, roots []byte, at int64) [][]byte {
	return [][]byte{[]byte(tenant), []byte(name), []byte(url), []byte(allow), secrets, roots, []byte(strconv.FormatInt(at, 10))}
}

func (db *DB) scanHook(r row) (h provisioner.HookDocument, err error) {
	var allow string
	var sealed, mac []byte
	var at int64
	if err := r.Scan(&h.Tenant, &h.Name, &h.URL, &allow, &sealed, &h.Roots, &at, &mac); err != nil {
		return h, err
	}
	h.UpdatedAt = timeOf(at)
	broken := func(err error) error { return ErrRowTampered.Wrap(err, "Table hooks, row %s/%s.", h.Tenant, h.Name) }
	if err := db.cfg.Seal.Verify(mac, "hooks", db.hookMAC(h.Tenant, h.Name, h.URL, allow, sealed, h.Roots, at)...); err != nil {
		return h, broken(err)
	}
	plain, err := db.cfg.Seal.Unseal(sealed, "hooks", h.Tenant+"/"+h.Name, "secrets")
	if err != nil {
		return h, broken(err)
	}
	var secrets []hookSecret
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return h, broken(err)
	}
	for _, s := range secrets {
		h.Secrets = append(h.Secrets, hook.Secret{KeyID: s.ID, Key: s.Key})
	}
	var prefixes []netip.Prefix
	if err := json.Unmarshal([]byte(allow), &prefixes); err != nil {
		return h, broken(err)
	}
	h.Allow = prefixes
	return h, nil
}

// Hook implements [provisioner.RegistrationStore].
func (db *DB) Hook(ctx context.Context, s access.Scope, name string) (provisioner.HookDocument, error) {
	h, err := db.scanHook(db.queryRow(ctx, `SELECT `+hookColumns+` FROM hooks WHERE tenant = $1 AND name = $2`, s.Tenant, name))
	return h, notFound(err, "There is no hook %s.", name)
}

// Hooks implements [provisioner.RegistrationStore].
func (db *DB) Hooks(ctx context.Context, s access.Scope) (out []provisioner.HookDocument, err error) {
	rows, err := db.query(ctx, `SELECT `+hookColumns+` FROM hooks WHERE tenant = $1 ORDER BY name`, s.Tenant)
	err = each(rows, err, func(r row) error {
		h, err := db.scanHook(r)
		out = append(out, h)
		return err
	})
	return out, err
}

// PutHook implements [provisioner.RegistrationStore]. The secrets are sealed
// before they reach a statement (S39).
func (db *DB) PutHook(ctx context.Context, h provisioner.HookDocument) error {
	secrets := make([]hookSecret, len(h.Secrets))
	for i, s := range h.Secrets {
		secrets[i] = hookSecret{s.KeyID, s.Key}
	}
	plain, err := json.Marshal(secrets)
	if err != nil {
		return err
	}
	allow := h.Allow
	if allow == nil {
		allow = []netip.Prefix{}
	}
	list, err := json.Marshal(allow)
	if err != nil {
		return err
	}
	sealed := db.cfg.Seal.Seal(plain, "hooks", h.Tenant+"/"+h.Name, "secrets")
	clear(plain)
	at := millis(h.UpdatedAt)
	mac := db.cfg.Seal.MAC("hooks", db.hookMAC(h.Tenant, h.Name, h.URL, string(list), sealed, h.Roots, at)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, `SELECT mac FROM hooks WHERE tenant = $1 AND name = $2`, h.Tenant, h.Name)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO hooks (`+hookColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (tenant, name) DO UPDATE SET url = excluded.url, allow = excluded.allow, secrets = excluded.secrets, roots = excluded.roots, updated_at = excluded.updated_at, mac = excluded.mac WHERE hooks.mac = $9`,
			h.Tenant, h.Name, h.URL, string(list), sealed, h.Roots, at, mac, notNull(old))
		if err == nil && n != 1 {
			return errStale
		}
		txFrom(ctx).reseal("hooks", pair(h.Tenant, h.Name), old, mac)
		return err
	})
}
