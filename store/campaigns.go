package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

var _ campaign.Store = (*DB)(nil)

const (
	campaignColumns = `tenant, id, state, active, spec, progress, created_by, created_at, updated_at, version, mac`
	campaignSelect  = `SELECT ` + campaignColumns + ` FROM campaigns `
	memberColumns   = `tenant, campaign, thing, name, stage, place, state, since, not_before, offered, began, attempt, was, became, code, detail, steps, version, mac`
	memberSelect    = `SELECT ` + memberColumns + ` FROM campaign_members `
	stepColumns     = `tenant, thing, at, campaign, number, name, stage, state, attempt, was, became, code, detail, mac`
	stepSelect      = `SELECT ` + stepColumns + ` FROM campaign_steps `
)

// campaignRow is a campaign in its columns.
type campaignRow struct {
	tenant, id, state, by       string
	active                      int
	spec, progress, mac         []byte
	created, updated, versionNo int64
}

func (r *campaignRow) dest() []any {
	return []any{&r.tenant, &r.id, &r.state, &r.active, &r.spec, &r.progress, &r.by, &r.created, &r.updated, &r.versionNo, &r.mac}
}

func (r *campaignRow) fields() [][]byte {
	return append([][]byte{[]byte(r.tenant), []byte(r.id), []byte(r.state), r.spec, r.progress, []byte(r.by)}, decimals(int64(r.active), r.created, r.updated, r.versionNo)...)
}

func (db *DB) campaignRow(c *campaign.Campaign) (r campaignRow, err error) {
	r = campaignRow{tenant: c.Tenant, id: c.ID, state: string(c.State), by: c.CreatedBy, active: flag(c.Active), created: millis(c.CreatedAt), updated: millis(c.UpdatedAt), versionNo: c.Version}
	if r.spec, err = json.Marshal(&c.Spec); err != nil {
		return r, err
	}
	if r.progress, err = json.Marshal(&c.Progress); err != nil {
		return r, err
	}
	r.mac = db.cfg.Seal.MAC("campaigns", r.fields()...)
	return r, nil
}

// scanCampaign reads a campaign without its counts; of one that was tampered with it
// gives tenant and name.
func (db *DB) scanCampaign(row row) (c campaign.Campaign, err error) {
	var r campaignRow
	if err := row.Scan(r.dest()...); err != nil {
		return c, err
	}
	c.Tenant, c.ID, c.State, c.Active, c.CreatedBy, c.Version = r.tenant, r.id, campaign.State(r.state), r.active == 1, r.by, r.versionNo
	c.CreatedAt, c.UpdatedAt = timeOf(r.created), timeOf(r.updated)
	err = db.cfg.Seal.Verify(r.mac, "campaigns", r.fields()...)
	if err == nil {
		err = json.Unmarshal(r.spec, &c.Spec)
	}
	if err == nil {
		err = json.Unmarshal(r.progress, &c.Progress)
	}
	if err != nil {
		return c, ErrRowTampered.Wrap(err, "Table campaigns, row %s/%s.", r.tenant, r.id)
	}
	return c, nil
}

func (db *DB) putCampaign(ctx context.Context, c *campaign.Campaign, was int64) error {
	r, err := db.campaignRow(c)
	if err != nil {
		return err
	}
	changed := campaign.ErrChanged
	if was == 0 {
		changed = campaign.ErrExists
	}
	return db.put(ctx, sealedRow{table: "campaigns", name: pair(c.Tenant, c.ID), mac: r.mac, find: `SELECT mac FROM campaigns WHERE tenant = $1 AND id = $2`, key: []any{c.Tenant, c.ID}, changed: changed}, was,
		`INSERT INTO campaigns (`+campaignColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
		[]any{r.tenant, r.id, r.state, r.active, r.spec, r.progress, r.by, r.created, r.updated, r.versionNo, r.mac},
		`UPDATE campaigns SET state = $1, active = $2, spec = $3, progress = $4, updated_at = $5, version = $6, mac = $7 WHERE tenant = $8 AND id = $9 AND version = $10`,
		[]any{r.state, r.active, r.spec, r.progress, r.updated, r.versionNo, r.mac, r.tenant, r.id, was})
}

// AddCampaign implements [campaign.Store].
func (db *DB) AddCampaign(ctx context.Context, c campaign.Campaign) error {
	return db.putCampaign(ctx, &c, 0)
}

// PutCampaign implements [campaign.Store].
func (db *DB) PutCampaign(ctx context.Context, c campaign.Campaign, was int64) error {
	return db.putCampaign(ctx, &c, was)
}

// CountMembers implements [campaign.Store].
func (db *DB) CountMembers(ctx context.Context, s access.Scope, id string, by campaign.Counts) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		for _, n := range by {
			if n.Members == 0 {
				continue
			}
			if _, err := db.exec(ctx, `INSERT INTO campaign_counts (tenant, campaign, stage, state, members) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (tenant, campaign, stage, state) DO UPDATE SET members = campaign_counts.members + excluded.members`, s.Tenant, id, n.Stage, string(n.State), n.Members); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) memberCounts(ctx context.Context, c *campaign.Campaign) error {
	rows, err := db.query(ctx, `SELECT stage, state, members FROM campaign_counts WHERE tenant = $1 AND campaign = $2 AND members <> 0 ORDER BY stage, state`, c.Tenant, c.ID)
	return each(rows, err, func(r row) error {
		var n campaign.Count
		err := r.Scan(&n.Stage, (*string)(&n.State), &n.Members)
		c.Counts = append(c.Counts, n)
		return err
	})
}

// Campaign implements [campaign.Store].
func (db *DB) Campaign(ctx context.Context, s access.Scope, id string) (campaign.Campaign, error) {
	c, err := db.scanCampaign(db.queryRow(ctx, campaignSelect+`WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return c, campaign.ErrUnknown.New("%.80s.", id)
	}
	if err != nil {
		return c, err
	}
	return c, db.memberCounts(ctx, &c)
}

func (db *DB) campaigns(ctx context.Context, query string, args ...any) (out []campaign.Campaign, err error) {
	rows, err := db.query(ctx, query, args...)
	err = each(rows, err, func(r row) error {
		c, err := db.scanCampaign(r)
		out = append(out, c)
		return err
	})
	for i := range out {
		if err == nil {
			err = db.memberCounts(ctx, &out[i])
		}
	}
	return out, err
}

// Campaigns implements [campaign.Store].
func (db *DB) Campaigns(ctx context.Context, s access.Scope, state campaign.State, after string, limit int) ([]campaign.Campaign, error) {
	if state == "" {
		return db.campaigns(ctx, campaignSelect+`WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3`, s.Tenant, after, limit)
	}
	return db.campaigns(ctx, campaignSelect+`WHERE tenant = $1 AND id > $2 AND state = $3 ORDER BY id LIMIT $4`, s.Tenant, after, string(state), limit)
}

// ActiveCampaigns implements [campaign.Store].
func (db *DB) ActiveCampaigns(ctx context.Context, tenant, id string, limit int) ([]campaign.Campaign, error) {
	return db.campaigns(ctx, campaignSelect+`WHERE active = 1 AND (tenant, id) > ($1, $2) ORDER BY tenant, id LIMIT $3`, tenant, id, limit)
}

func memberFields(m *campaign.Member) [][]byte {
	return append([][]byte{[]byte(m.Tenant), []byte(m.Campaign), []byte(m.Thing), []byte(m.State), []byte(m.Before), []byte(m.After), []byte(m.Code), []byte(m.Detail)},
		decimals(int64(m.Stage), m.Place, millis(m.Since), millis(m.NotBefore), millis(m.Offered), millis(m.Began), m.Attempt, m.Steps, m.Version)...)
}

// scanMember reads a member; of one that was tampered with it gives the key.
func (db *DB) scanMember(row row) (m campaign.Member, err error) {
	var thing string
	var since, notBefore, offered, began int64
	var mac []byte
	if err := row.Scan(&m.Tenant, &m.Campaign, &thing, (*string)(&m.Thing), &m.Stage, &m.Place, (*string)(&m.State), &since, &notBefore, &offered, &began, &m.Attempt,
		&m.Before, &m.After, &m.Code, &m.Detail, &m.Steps, &m.Version, &mac); err != nil {
		return m, err
	}
	m.Since, m.NotBefore, m.Offered, m.Began = timeOf(since), timeOf(notBefore), timeOf(offered), timeOf(began)
	err = db.cfg.Seal.Verify(mac, "campaign_members", memberFields(&m)...)
	if err == nil && m.Thing.Fold() != thing {
		err = errors.New("its key is another's")
	}
	if err != nil {
		m.Thing = fleet.ThingName(thing)
		return m, ErrRowTampered.Wrap(err, "Table campaign_members, row %s/%s/%s.", m.Tenant, m.Campaign, thing)
	}
	return m, nil
}

// PutMember implements [campaign.Store].
func (db *DB) PutMember(ctx context.Context, m campaign.Member, next time.Time, log bool) error {
	mac := db.cfg.Seal.MAC("campaign_members", memberFields(&m)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		if m.Version == 1 {
			n, err = db.exec(ctx, `INSERT INTO campaign_members (`+memberColumns+`, next_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) ON CONFLICT DO NOTHING`,
				m.Tenant, m.Campaign, m.Thing.Fold(), string(m.Thing), m.Stage, m.Place, string(m.State), millis(m.Since), millis(m.NotBefore), millis(m.Offered), millis(m.Began), m.Attempt,
				m.Before, m.After, m.Code, m.Detail, m.Steps, m.Version, mac, millis(next))
		} else {
			n, err = db.exec(ctx, `UPDATE campaign_members SET name = $1, stage = $2, place = $3, state = $4, since = $5, not_before = $6, offered = $7, began = $8, attempt = $9, was = $10, became = $11, code = $12, detail = $13, steps = $14, version = $15, mac = $16, next_at = $17
				WHERE tenant = $18 AND campaign = $19 AND thing = $20 AND version = $21`,
				string(m.Thing), m.Stage, m.Place, string(m.State), millis(m.Since), millis(m.NotBefore), millis(m.Offered), millis(m.Began), m.Attempt, m.Before, m.After, m.Code, m.Detail, m.Steps, m.Version, mac, millis(next),
				m.Tenant, m.Campaign, m.Thing.Fold(), m.Version-1)
		}
		if err == nil && n != 1 {
			err = campaign.ErrChanged.New("%s.", m.Thing)
		}
		if err != nil || !log {
			return err
		}
		return db.addStep(ctx, &campaign.Step{Tenant: m.Tenant, Campaign: m.Campaign, Thing: m.Thing, Number: m.Steps, At: m.Since, Stage: m.Stage, State: m.State, Attempt: m.Attempt, Before: m.Before, After: m.After, Code: m.Code, Detail: m.Detail})
	})
}

// LookAt implements [campaign.Store].
func (db *DB) LookAt(ctx context.Context, s access.Scope, id string, thing fleet.ThingName, next time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `UPDATE campaign_members SET next_at = $1 WHERE tenant = $2 AND campaign = $3 AND thing = $4`, millis(next), s.Tenant, id, thing.Fold())
		return err
	})
}

// Member implements [campaign.Store].
func (db *DB) Member(ctx context.Context, s access.Scope, id string, thing fleet.ThingName) (campaign.Member, error) {
	m, err := db.scanMember(db.queryRow(ctx, memberSelect+`WHERE tenant = $1 AND campaign = $2 AND thing = $3`, s.Tenant, id, thing.Fold()))
	if errors.Is(err, sql.ErrNoRows) {
		return campaign.Member{}, campaign.ErrNoMember.New("%s.", thing)
	}
	return m, err
}

func (db *DB) membersOf(ctx context.Context, query string, args ...any) (out []campaign.Member, err error) {
	rows, err := db.query(ctx, memberSelect+query, args...)
	err = each(rows, err, func(r row) error {
		m, err := db.scanMember(r)
		out = append(out, m)
		return err
	})
	return out, err
}

// CampaignMembers implements [campaign.Store].
func (db *DB) CampaignMembers(ctx context.Context, s access.Scope, id string, q campaign.MemberQuery) ([]campaign.Member, error) {
	upTo := q.UpTo
	if upTo == "" {
		upTo = "~" // behind every name
	}
	if q.State == "" {
		return db.membersOf(ctx, `WHERE tenant = $1 AND campaign = $2 AND thing > $3 AND thing <= $4 ORDER BY thing LIMIT $5`, s.Tenant, id, q.After, upTo, q.Limit)
	}
	return db.membersOf(ctx, `WHERE tenant = $1 AND campaign = $2 AND state = $3 AND thing > $4 AND thing <= $5 ORDER BY thing LIMIT $6`, s.Tenant, id, string(q.State), q.After, upTo, q.Limit)
}

// DueMembers implements [campaign.Store]: one step down the index
// campaign_members_due.
func (db *DB) DueMembers(ctx context.Context, s access.Scope, id string, state campaign.MemberState, now time.Time, limit int) ([]campaign.Member, error) {
	return db.membersOf(ctx, `WHERE tenant = $1 AND campaign = $2 AND state = $3 AND next_at > 0 AND next_at <= $4 ORDER BY next_at LIMIT $5`, s.Tenant, id, string(state), millis(now), limit)
}

// Undrawn implements [campaign.Store].
func (db *DB) Undrawn(ctx context.Context, s access.Scope, id string, below int64, limit int) ([]campaign.Member, error) {
	return db.membersOf(ctx, `WHERE tenant = $1 AND campaign = $2 AND stage = -1 AND state = 'waiting' AND place < $3 ORDER BY place LIMIT $4`, s.Tenant, id, below, limit)
}

// Failures implements [campaign.Store].
func (db *DB) Failures(ctx context.Context, s access.Scope, id string) (out []campaign.Failure, err error) {
	rows, err := db.query(ctx, `SELECT state, code, COUNT(*) FROM campaign_members WHERE tenant = $1 AND campaign = $2 AND state IN ('failed', 'rejected', 'timed-out', 'silent', 'skipped') GROUP BY state, code ORDER BY state, code`, s.Tenant, id)
	err = each(rows, err, func(r row) error {
		var f campaign.Failure
		err := r.Scan((*string)(&f.State), &f.Code, &f.Members)
		out = append(out, f)
		return err
	})
	return out, err
}

func stepFields(s *campaign.Step) [][]byte {
	return append([][]byte{[]byte(s.Tenant), []byte(s.Campaign), []byte(s.Thing), []byte(s.State), []byte(s.Before), []byte(s.After), []byte(s.Code), []byte(s.Detail)},
		decimals(s.Number, millis(s.At), int64(s.Stage), s.Attempt)...)
}

func (db *DB) addStep(ctx context.Context, s *campaign.Step) error {
	_, err := db.exec(ctx, `INSERT INTO campaign_steps (`+stepColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		s.Tenant, s.Thing.Fold(), millis(s.At), s.Campaign, s.Number, string(s.Thing), s.Stage, string(s.State), s.Attempt, s.Before, s.After, s.Code, s.Detail, db.cfg.Seal.MAC("campaign_steps", stepFields(s)...))
	return err
}

// scanStep reads a step; of one that was tampered with it gives the key.
func (db *DB) scanStep(row row) (s campaign.Step, err error) {
	var thing string
	var at int64
	var mac []byte
	if err := row.Scan(&s.Tenant, &thing, &at, &s.Campaign, &s.Number, (*string)(&s.Thing), &s.Stage, (*string)(&s.State), &s.Attempt, &s.Before, &s.After, &s.Code, &s.Detail, &mac); err != nil {
		return s, err
	}
	s.At = timeOf(at)
	err = db.cfg.Seal.Verify(mac, "campaign_steps", stepFields(&s)...)
	if err == nil && s.Thing.Fold() != thing {
		err = errors.New("its key is another's")
	}
	if err != nil {
		s.Thing = fleet.ThingName(thing)
		return s, ErrRowTampered.Wrap(err, "Table campaign_steps, row %s/%s/%s/%d.", s.Tenant, s.Campaign, thing, s.Number)
	}
	return s, nil
}

// Steps implements [campaign.Store].
func (db *DB) Steps(ctx context.Context, s access.Scope, thing fleet.ThingName, after campaign.Step, limit int) (out []campaign.Step, err error) {
	rows, err := db.query(ctx, stepSelect+`WHERE tenant = $1 AND thing = $2 AND (at, campaign, number) > ($3, $4, $5) ORDER BY at, campaign, number LIMIT $6`, s.Tenant, thing.Fold(), millis(after.At), after.Campaign, after.Number, limit)
	err = each(rows, err, func(r row) error {
		v, err := db.scanStep(r)
		out = append(out, v)
		return err
	})
	return out, err
}

// CampaignTotals implements [campaign.Store].
func (db *DB) CampaignTotals(ctx context.Context) (campaign.Totals, error) {
	t := campaign.Totals{Campaigns: map[campaign.State]int64{}, Members: map[campaign.MemberState]int64{}, Failures: map[string]int64{}}
	for _, q := range []struct {
		query string
		put   func(name string, n int64)
	}{
		{`SELECT state, COUNT(*) FROM campaigns GROUP BY state`, func(name string, n int64) { t.Campaigns[campaign.State(name)] = n }},
		{`SELECT k.state, SUM(k.members) FROM campaigns c JOIN campaign_counts k ON k.tenant = c.tenant AND k.campaign = c.id WHERE c.active = 1 GROUP BY k.state`, func(name string, n int64) { t.Members[campaign.MemberState(name)] = n }},
		{`SELECT m.code, COUNT(*) FROM campaigns c JOIN campaign_members m ON m.tenant = c.tenant AND m.campaign = c.id AND m.state IN ('failed', 'rejected', 'timed-out', 'silent') WHERE c.active = 1 GROUP BY m.code`,
			func(name string, n int64) { t.Failures[name] = n }},
	} {
		rows, err := db.query(ctx, q.query)
		err = each(rows, err, func(r row) error {
			var name string
			var n int64
			err := r.Scan(&name, &n)
			q.put(name, n)
			return err
		})
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

// BrokenCampaigns implements [campaign.Store]. The rows of campaigns are a sealed
// table, see [sealedTables].
func (db *DB) BrokenCampaigns(ctx context.Context, report func(check, object, detail string)) error {
	for _, q := range []struct{ check, detail, query string }{
		{"campaign-missing", "Its campaign does not exist.", `SELECT m.tenant, m.campaign, m.thing FROM campaign_members m LEFT JOIN campaigns c ON c.tenant = m.tenant AND c.id = m.campaign WHERE c.id IS NULL`},
		{"campaign-steps", "Its steps are not all there, or the last one is not its state.", `SELECT m.tenant, m.campaign, m.thing FROM campaign_members m LEFT JOIN (
				SELECT tenant, campaign, thing, COUNT(*) AS n, MAX(number) AS newest FROM campaign_steps GROUP BY tenant, campaign, thing) n ON n.tenant = m.tenant AND n.campaign = m.campaign AND n.thing = m.thing
			LEFT JOIN campaign_steps s ON s.tenant = m.tenant AND s.thing = m.thing AND s.campaign = m.campaign AND s.number = m.steps
			WHERE n.n IS NULL OR n.n <> m.steps OR n.newest <> m.steps OR s.state IS NULL OR s.state <> m.state`},
		{"campaign-step-stray", "A step of a device that the campaign does not have.", `SELECT DISTINCT s.tenant, s.campaign, s.thing FROM campaign_steps s LEFT JOIN campaign_members m ON m.tenant = s.tenant AND m.campaign = s.campaign AND m.thing = s.thing WHERE m.thing IS NULL`},
		{"campaign-counts", "Its counts are not those of its members: one was added, removed or changed.", `SELECT k.tenant, k.campaign, k.state FROM campaign_counts k LEFT JOIN (
				SELECT tenant, campaign, stage, state, COUNT(*) AS n FROM campaign_members GROUP BY tenant, campaign, stage, state) n ON n.tenant = k.tenant AND n.campaign = k.campaign AND n.stage = k.stage AND n.state = k.state
			WHERE k.members <> COALESCE(n.n, 0)
			UNION ALL SELECT n.tenant, n.campaign, n.state FROM (SELECT DISTINCT tenant, campaign, stage, state FROM campaign_members) n LEFT JOIN campaign_counts k ON k.tenant = n.tenant AND k.campaign = n.campaign AND k.stage = n.stage AND k.state = n.state
			WHERE k.state IS NULL`},
	} {
		rows, err := db.query(ctx, q.query)
		err = each(rows, err, func(r row) error {
			var tenant, id, rest string
			err := r.Scan(&tenant, &id, &rest)
			report(q.check, "campaigns "+tenant+"/"+id+"/"+rest, q.detail)
			return err
		})
		if err != nil {
			return err
		}
	}
	tenant, id, thing := "", "", ""
	for {
		n := 0
		rows, err := db.query(ctx, memberSelect+`WHERE (tenant, campaign, thing) > ($1, $2, $3) ORDER BY tenant, campaign, thing LIMIT $4`, tenant, id, thing, chunk)
		err = each(rows, err, func(r row) error {
			m, err := db.scanMember(r)
			tenant, id, thing = m.Tenant, m.Campaign, m.Thing.Fold()
			if errors.Is(err, ErrRowTampered) {
				report("campaign-member-tampered", "campaign_members "+tenant+"/"+id+"/"+thing, "The row is not as it was written.")
				err = nil
			}
			n++
			return err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	last := campaign.Step{}
	for {
		n := 0
		rows, err := db.query(ctx, stepSelect+`WHERE (tenant, thing, at, campaign, number) > ($1, $2, $3, $4, $5) ORDER BY tenant, thing, at, campaign, number LIMIT $6`, last.Tenant, last.Thing.Fold(), millis(last.At), last.Campaign, last.Number, chunk)
		err = each(rows, err, func(r row) error {
			s, err := db.scanStep(r)
			if last = s; errors.Is(err, ErrRowTampered) {
				report("campaign-step-tampered", "campaign_steps "+s.Tenant+"/"+s.Campaign+"/"+s.Thing.Fold()+"/"+strconv.FormatInt(s.Number, 10), "The row is not as it was written.")
				err = nil
			}
			n++
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}
