package store

import (
	"context"

	"hallmark/access"
	"hallmark/bootstrap"
)

// Budgets lists the budgets of a tenant whose names begin with a prefix, in the
// order of their names, after one of them.
func (db *DB) Budgets(ctx context.Context, s access.Scope, prefix, after string, limit int) (out []bootstrap.Budget, err error) {
	from := max(prefix, after)
	rows, err := db.query(ctx, `SELECT `+budgetColumns+` FROM registration_budgets WHERE tenant = $1 AND name >= $2 AND name > $3 AND name < $4 ORDER BY name LIMIT $5`, s.Tenant, from, after, prefix+"\x7f", limit)
	err = each(rows, err, func(r row) error {
		b, err := db.scanBudget(r)
		out = append(out, b)
		return err
	})
	return out, err
}

// DropRegistration removes the registration of an authority or a registered CA.
// Where there is none nothing is done.
func (db *DB) DropRegistration(ctx context.Context, tenant, authority string) error {
	_, err := db.drop(ctx, sealedRow{table: "registrations", name: pair(tenant, authority), find: `SELECT mac FROM registrations WHERE tenant = $1 AND authority = $2`, key: []any{tenant, authority}},
		`DELETE FROM registrations WHERE tenant = $1 AND authority = $2`)
	return err
}
