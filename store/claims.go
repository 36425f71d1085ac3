package store

import (
	"context"
	"database/sql"
	"errors"
	"net/netip"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/provisioner"
)

var (
	_ bootstrap.Grants               = (*DB)(nil)
	_ provisioner.FleetTemplateStore = (*DB)(nil)
)

const fleetTemplateColumns = `tenant, name, hook, issuer, take_over, enabled, updated_at, mac`

func fleetTemplateFields(t *provisioner.FleetTemplate, takeOver, enabled, at int64) [][]byte {
	return append([][]byte{[]byte(t.Tenant), []byte(t.Name), []byte(t.Hook), []byte(t.Issuer)}, decimals(takeOver, enabled, at)...)
}

func (db *DB) scanFleetTemplate(r row) (t provisioner.FleetTemplate, err error) {
	var takeOver, enabled, at int64
	var mac []byte
	if err := r.Scan(&t.Tenant, &t.Name, &t.Hook, &t.Issuer, &takeOver, &enabled, &at, &mac); err != nil {
		return t, err
	}
	t.TakeOver, t.Enabled, t.UpdatedAt = takeOver == 1, enabled == 1, timeOf(at)
	if err := db.cfg.Seal.Verify(mac, "fleet_templates", fleetTemplateFields(&t, takeOver, enabled, at)...); err != nil {
		return t, ErrRowTampered.Wrap(err, "Table fleet_templates, row %s/%s.", t.Tenant, t.Name)
	}
	return t, nil
}

// FleetTemplate implements [provisioner.FleetTemplateStore].
func (db *DB) FleetTemplate(ctx context.Context, s access.Scope, name string) (provisioner.FleetTemplate, error) {
	t, err := db.scanFleetTemplate(db.queryRow(ctx, `SELECT `+fleetTemplateColumns+` FROM fleet_templates WHERE tenant = $1 AND name = $2`, s.Tenant, name))
	if errors.Is(err, sql.ErrNoRows) {
		return t, provisioner.ErrFleetTemplate.New("")
	}
	return t, err
}

// FleetTemplates implements [provisioner.FleetTemplateStore].
func (db *DB) FleetTemplates(ctx context.Context, s access.Scope) (out []provisioner.FleetTemplate, err error) {
	rows, err := db.query(ctx, `SELECT `+fleetTemplateColumns+` FROM fleet_templates WHERE tenant = $1 ORDER BY name`, s.Tenant)
	err = each(rows, err, func(r row) error {
		t, err := db.scanFleetTemplate(r)
		out = append(out, t)
		return err
	})
	return out, err
}

// PutFleetTemplate implements [provisioner.FleetTemplateStore].
func (db *DB) PutFleetTemplate(ctx context.Context, t provisioner.FleetTemplate) error {
	takeOver, enabled, at := int64(flag(t.TakeOver)), int64(flag(t.Enabled)), millis(t.UpdatedAt)
	mac := db.cfg.Seal.MAC("fleet_templates", fleetTemplateFields(&t, takeOver, enabled, at)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, `SELECT mac FROM fleet_templates WHERE tenant = $1 AND name = $2`, t.Tenant, t.Name)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO fleet_templates (`+fleetTemplateColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (tenant, name) DO UPDATE SET hook = excluded.hook, issuer = excluded.issuer, take_over = excluded.take_over, enabled = excluded.enabled, updated_at = excluded.updated_at, mac = excluded.mac WHERE fleet_templates.mac = $9`,
			t.Tenant, t.Name, t.Hook, t.Issuer, takeOver, enabled, at, mac, notNull(old))
		if err == nil && n != 1 {
			return errStale
		}
		txFrom(ctx).reseal("fleet_templates", pair(t.Tenant, t.Name), old, mac)
		return err
	})
}

const budgetColumns = `tenant, name, template, most, per_minute, outstanding, expires_at, created_by, created_at, used, window_at, window_used, networks, version, mac`

// networks is a list of prefixes as its column has it.
func networks(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func budgetFields(b *bootstrap.Budget) [][]byte {
	return append([][]byte{[]byte(b.Tenant), []byte(b.Name), []byte(b.Template), []byte(b.CreatedBy), []byte(networks(b.Networks))},
		decimals(b.Most, b.PerMinute, b.Outstanding, millis(b.ExpiresAt), millis(b.CreatedAt), b.Used, millis(b.WindowAt), b.WindowUsed, b.Version)...)
}

func (db *DB) scanBudget(r row) (b bootstrap.Budget, err error) {
	var ends, created, window int64
	var sites string
	var mac []byte
	err = r.Scan(&b.Tenant, &b.Name, &b.Template, &b.Most, &b.PerMinute, &b.Outstanding, &ends, &b.CreatedBy, &created, &b.Used, &window, &b.WindowUsed, &sites, &b.Version, &mac)
	if err != nil {
		return b, err
	}
	for _, t := range strings.Fields(sites) {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return b, ErrRowTampered.Wrap(err, "Table registration_budgets, row %s/%s.", b.Tenant, b.Name)
		}
		b.Networks = append(b.Networks, p)
	}
	b.ExpiresAt, b.CreatedAt, b.WindowAt = timeOf(ends), timeOf(created), timeOf(window)
	if err := db.cfg.Seal.Verify(mac, "registration_budgets", budgetFields(&b)...); err != nil {
		return b, ErrRowTampered.Wrap(err, "Table registration_budgets, row %s/%s.", b.Tenant, b.Name)
	}
	return b, nil
}

// Budget implements [bootstrap.Grants].
func (db *DB) Budget(ctx context.Context, s access.Scope, name string) (bootstrap.Budget, error) {
	b, err := db.scanBudget(db.queryRow(ctx, `SELECT `+budgetColumns+` FROM registration_budgets WHERE tenant = $1 AND name = $2`, s.Tenant, name))
	if errors.Is(err, sql.ErrNoRows) {
		return b, bootstrap.ErrBudgetUnknown.New("")
	}
	return b, err
}

// PutBudget implements [bootstrap.Grants].
func (db *DB) PutBudget(ctx context.Context, b bootstrap.Budget, was int64) error {
	mac := db.cfg.Seal.MAC("registration_budgets", budgetFields(&b)...)
	return db.put(ctx, sealedRow{table: "registration_budgets", name: pair(b.Tenant, b.Name), mac: mac, changed: bootstrap.ErrRegistrationChanged,
		find: `SELECT mac FROM registration_budgets WHERE tenant = $1 AND name = $2`, key: []any{b.Tenant, b.Name}}, was,
		`INSERT INTO registration_budgets (`+budgetColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT (tenant, name) DO NOTHING`,
		[]any{b.Tenant, b.Name, b.Template, b.Most, b.PerMinute, b.Outstanding, millis(b.ExpiresAt), b.CreatedBy, millis(b.CreatedAt), b.Used, millis(b.WindowAt), b.WindowUsed, networks(b.Networks), b.Version, mac},
		`UPDATE registration_budgets SET template = $1, most = $2, per_minute = $3, outstanding = $4, expires_at = $5, used = $6, window_at = $7, window_used = $8, networks = $9, version = $10, mac = $11 WHERE tenant = $12 AND name = $13 AND version = $14`,
		[]any{b.Template, b.Most, b.PerMinute, b.Outstanding, millis(b.ExpiresAt), b.Used, millis(b.WindowAt), b.WindowUsed, networks(b.Networks), b.Version, mac, b.Tenant, b.Name, was})
}

const grantStoreColumns = `tenant, holder, budget, certificate, state, origin, created_at, expires_at, request, result, version, mac`

func grantFields(g *bootstrap.Grant) [][]byte {
	return append([][]byte{[]byte(g.Tenant), []byte(g.Holder), []byte(g.Budget), []byte(g.Certificate), []byte(g.State), []byte(g.Origin), []byte(g.Request), []byte(g.Result)},
		decimals(millis(g.CreatedAt), millis(g.ExpiresAt), g.Version)...)
}

func (db *DB) scanClaimGrant(r row) (g bootstrap.Grant, err error) {
	var created, ends int64
	var mac []byte
	if err := r.Scan(&g.Tenant, &g.Holder, &g.Budget, &g.Certificate, (*string)(&g.State), &g.Origin, &created, &ends, &g.Request, &g.Result, &g.Version, &mac); err != nil {
		return g, err
	}
	g.CreatedAt, g.ExpiresAt = timeOf(created), timeOf(ends)
	if err := db.cfg.Seal.Verify(mac, "registration_grants", grantFields(&g)...); err != nil {
		return g, ErrRowTampered.Wrap(err, "Table registration_grants, row %s/%s.", g.Tenant, g.Holder)
	}
	return g, nil
}

func grantMissing(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return bootstrap.ErrGrantUnknown.New("")
	}
	return err
}

// Grant implements [bootstrap.Grants].
func (db *DB) Grant(ctx context.Context, s access.Scope, holder string) (bootstrap.Grant, error) {
	g, err := db.scanClaimGrant(db.queryRow(ctx, `SELECT `+grantStoreColumns+` FROM registration_grants WHERE tenant = $1 AND holder = $2`, s.Tenant, fold(holder)))
	return g, grantMissing(err)
}

// GrantByCertificate implements [bootstrap.Grants].
func (db *DB) GrantByCertificate(ctx context.Context, s access.Scope, id string) (bootstrap.Grant, error) {
	if id == "" {
		return bootstrap.Grant{}, bootstrap.ErrGrantUnknown.New("")
	}
	g, err := db.scanClaimGrant(db.queryRow(ctx, `SELECT `+grantStoreColumns+` FROM registration_grants WHERE tenant = $1 AND certificate = $2 AND certificate <> ''`, s.Tenant, id))
	return g, grantMissing(err)
}

// PutGrant implements [bootstrap.Grants].
func (db *DB) PutGrant(ctx context.Context, g bootstrap.Grant, was int64) error {
	mac := db.cfg.Seal.MAC("registration_grants", grantFields(&g)...)
	return db.put(ctx, sealedRow{table: "registration_grants", name: pair(g.Tenant, g.Holder), mac: mac, changed: bootstrap.ErrRegistrationChanged,
		find: `SELECT mac FROM registration_grants WHERE tenant = $1 AND holder = $2`, key: []any{g.Tenant, g.Holder}}, was,
		`INSERT INTO registration_grants (`+grantStoreColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (tenant, holder) DO NOTHING`,
		[]any{g.Tenant, g.Holder, g.Budget, g.Certificate, string(g.State), g.Origin, millis(g.CreatedAt), millis(g.ExpiresAt), g.Request, g.Result, g.Version, mac},
		`UPDATE registration_grants SET certificate = $1, state = $2, expires_at = $3, request = $4, result = $5, version = $6, mac = $7 WHERE tenant = $8 AND holder = $9 AND version = $10`,
		[]any{g.Certificate, string(g.State), millis(g.ExpiresAt), g.Request, g.Result, g.Version, mac, g.Tenant, g.Holder, was})
}

// OpenGrants implements [bootstrap.Grants].
func (db *DB) OpenGrants(ctx context.Context, s access.Scope, budget string) (n int64, err error) {
	err = db.queryRow(ctx, `SELECT COUNT(*) FROM registration_grants WHERE tenant = $1 AND budget = $2 AND state IN ('reserved', 'pending')`, s.Tenant, budget).Scan(&n)
	return n, err
}

// DueGrants implements [bootstrap.Grants].
func (db *DB) DueGrants(ctx context.Context, now time.Time, limit int) (out []bootstrap.Grant, err error) {
	rows, err := db.query(ctx, `SELECT `+grantStoreColumns+` FROM registration_grants WHERE expires_at <= $1 AND state IN ('reserved', 'pending') ORDER BY expires_at, tenant, holder LIMIT $2`, millis(now), limit)
	err = each(rows, err, func(r row) error {
		g, err := db.scanClaimGrant(r)
		if errors.Is(err, ErrRowTampered) { // fsck names it; the others still end (A3)
			db.log.ErrorContext(ctx, "a grant was changed by something else", "tenant", g.Tenant, "holder", g.Holder)
			return nil
		}
		out = append(out, g)
		return err
	})
	return out, err
}

// eventRow is when the event of a certificate was published.
type eventRow struct {
	tenant, certificate string
	at                  int64
	mac                 []byte
}

const eventColumns = `tenant, certificate, sent_at, mac`

func (db *DB) eventMAC(e *eventRow) []byte {
	return db.cfg.Seal.MAC("registration_events", []byte(e.tenant), []byte(e.certificate), number(e.at))
}

func (db *DB) scanEvent(r row) (e eventRow, err error) {
	if err := r.Scan(&e.tenant, &e.certificate, &e.at, &e.mac); err != nil {
		return e, err
	}
	if err := db.cfg.Seal.Verify(e.mac, "registration_events", []byte(e.tenant), []byte(e.certificate), number(e.at)); err != nil {
		return e, ErrRowTampered.Wrap(err, "Table registration_events, row %s/%s.", e.tenant, e.certificate)
	}
	return e, nil
}

// NoteEvent implements [bootstrap.Grants]. The condition lets one of two nodes win.
func (db *DB) NoteEvent(ctx context.Context, tenant, certificate string, now time.Time, gap time.Duration) (first bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		first = false
		old, err := db.scanEvent(db.queryRow(ctx, `SELECT `+eventColumns+` FROM registration_events WHERE tenant = $1 AND certificate = $2`, tenant, certificate))
		known := !errors.Is(err, sql.ErrNoRows)
		if err != nil && known {
			return err
		}
		next := eventRow{tenant: tenant, certificate: certificate, at: millis(now)}
		next.mac = db.eventMAC(&next)
		var n int64
		switch {
		case !known:
			n, err = db.exec(ctx, `INSERT INTO registration_events (`+eventColumns+`) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, certificate) DO NOTHING`, tenant, certificate, next.at, next.mac)
		case next.at-old.at < gap.Milliseconds():
			return nil
		default:
			n, err = db.exec(ctx, `UPDATE registration_events SET sent_at = $1, mac = $2 WHERE tenant = $3 AND certificate = $4 AND sent_at = $5`, next.at, next.mac, tenant, certificate, old.at)
		}
		if err != nil || n != 1 {
			return err
		}
		first = true
		var was []byte
		if known {
			was = old.mac
		}
		txFrom(ctx).reseal("registration_events", pair(tenant, certificate), was, next.mac)
		return nil
	})
	return first && err == nil, err
}
