package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fault"
	"hallmark/web"
	"hallmark/web/webtest"
)

// Names of what the fleet of these tests holds.
const (
	lamp     = "LMP-000001"
	deaf     = "LMP-000002" // never connected, no certificate, nothing else
	rollout  = "firmware-7"
	caID     = "ca00000000000000000000000000000000000000000000000000000000000001"
	certID   = "d000000000000000000000000000000000000000000000000000000000000001"
	waitID   = "d000000000000000000000000000000000000000000000000000000000000002"
	claimID  = "c000000000000000000000000000000000000000000000000000000000000001"
	emptyID  = "c000000000000000000000000000000000000000000000000000000000000002"
	secret   = "c2VjcmV0IG9mIGEgaG9vaw=="
	hostile  = `"><script>alert(1)</script><img src=x onerror=alert(2)>`
	turned   = "photo\u202egpj.exe"
	hebrew   = "מנורת שולחן (E27)"
	deepest  = "desk-7"
	dynamic  = "in-the-dark"
	policyID = "lamps"
)

var long = strings.Repeat("L", 128)

var errAbsent = &fault.Definition{Kind: fault.NotFound, Code: "test-absent", What: "There is no such record.", Next: "Check the name."}

// fleet is a fleet in memory behind the interfaces of the API. It knows tenants
// as the real domains do: another tenant's is not there.
type fleet struct {
	*webtest.Fake
	now func() time.Time

	things     []adminapi.Thing
	types      []adminapi.ThingType
	groups     []adminapi.ThingGroup
	billing    []adminapi.ThingGroup
	members    []string
	jobs       []adminapi.Job
	executions []adminapi.JobExecution
	shadows    map[string]string // by name, of the lamp
	policies   []adminapi.DevicePolicy
	targets    []adminapi.PolicyTarget
	attached   []adminapi.AttachedPolicy
	templates  []adminapi.Template
	fleetTmpl  []adminapi.FleetTemplate
	rules      []adminapi.RegistrationRule
	hooks      []adminapi.Hook
	cas        []adminapi.RegisteredCA
	certs      []adminapi.FleetCertificate
	claims     []adminapi.Claim
	campaigns  []adminapi.Campaign
	changed    []adminapi.CampaignMember
	due        []adminapi.RotationDue
	happened   []adminapi.ThingEvent
	firmware   []adminapi.Firmware
	roots      adminapi.TrustState
	rollovers  []adminapi.TrustRollover
	askedBy    string
}

func mine(s access.Scope) bool { return s.Tenant == webtest.Tenant }

func part[T any](s access.Scope, items []T, p web.Page) ([]T, string, error) {
	from, _ := strconv.Atoi(p.After)
	if !mine(s) || from > len(items) {
		return nil, "", nil
	}
	to, next := min(from+p.Limit, len(items)), ""
	if to < len(items) {
		next = strconv.Itoa(to)
	}
	return items[from:to], next, nil
}

func only[T any](items []T, keep func(*T) bool) (out []T) {
	for i := range items {
		if keep(&items[i]) {
			out = append(out, items[i])
		}
	}
	return out
}

func one[T any](s access.Scope, items []T, is func(*T) bool) (v T, err error) {
	if found := only(items, is); mine(s) && len(found) > 0 {
		return found[0], nil
	}
	return v, errAbsent.New("")
}

func all[T any](s access.Scope, items []T) ([]T, error) {
	if !mine(s) {
		return nil, nil
	}
	return items, nil
}

func (f *fleet) backend() web.Backend {
	b := (&webtest.Service{Fake: f.Fake}).Backend()
	b.Registry, b.Things, b.ThingTypes, b.Groups, b.Policies, b.Registration, b.Jobs, b.Shadows, b.Campaigns, b.Rotation, b.Plans = f, f, f, f, f, f, f, f, f, f, f
	b.Firmware, b.Bundles = f, f
	return b
}

func (f *fleet) Things(_ context.Context, s access.Scope, attribute, value string, p web.Page) ([]adminapi.Thing, string, error) {
	return part(s, only(f.things, func(t *adminapi.Thing) bool {
		return attribute == "" || strings.HasPrefix(t.Attributes[attribute], value)
	}), p)
}
func (f *fleet) SearchThings(_ context.Context, s access.Scope, query string, p web.Page) ([]adminapi.Thing, string, error) {
	name, ok := strings.CutPrefix(query, "thingName:")
	if !ok {
		return nil, "", badQuery.New("At %q.", query)
	}
	return part(s, only(f.things, func(t *adminapi.Thing) bool { return strings.HasPrefix(t.Name, strings.TrimSuffix(name, "*")) }), p)
}

var badQuery = &fault.Definition{Kind: fault.Invalid, Code: "test-query", What: "The query is not in the search language.", Next: "Correct it."}

func (f *fleet) SilentThings(_ context.Context, s access.Scope, silence time.Duration, p web.Page) ([]adminapi.Thing, string, error) {
	return part(s, only(f.things, func(t *adminapi.Thing) bool {
		return !t.Connectivity.Connected && f.now().Sub(t.Connectivity.At) >= silence
	}), p)
}
func (f *fleet) Thing(_ context.Context, s access.Scope, name string) (adminapi.Thing, error) {
	return one(s, f.things, func(t *adminapi.Thing) bool { return t.Name == name })
}
func (f *fleet) ThingTypes(_ context.Context, s access.Scope, p web.Page) ([]adminapi.ThingType, string, error) {
	return part(s, f.types, p)
}
func (f *fleet) ThingType(_ context.Context, s access.Scope, name string) (adminapi.ThingType, error) {
	return one(s, f.types, func(t *adminapi.ThingType) bool { return t.Name == name })
}
func (f *fleet) kind(k web.GroupKind) []adminapi.ThingGroup {
	if k == web.BillingGroups {
		return f.billing
	}
	return f.groups
}
func (f *fleet) Groups(_ context.Context, s access.Scope, k web.GroupKind, q web.GroupQuery, p web.Page) ([]adminapi.ThingGroup, string, error) {
	return part(s, only(f.kind(k), func(g *adminapi.ThingGroup) bool {
		return (q.Parent == "" || g.Parent == q.Parent) && strings.HasPrefix(g.Name, q.Prefix)
	}), p)
}
func (f *fleet) Group(_ context.Context, s access.Scope, k web.GroupKind, name string) (adminapi.ThingGroup, error) {
	return one(s, f.kind(k), func(g *adminapi.ThingGroup) bool { return g.Name == name })
}
func (f *fleet) GroupThings(_ context.Context, s access.Scope, _ web.GroupKind, _ string, nested bool, p web.Page) ([]string, string, error) {
	names := f.members
	if nested {
		names = append(slices.Clone(names), "LMP-of-a-group-below")
	}
	return part(s, names, p)
}
func (f *fleet) Jobs(_ context.Context, s access.Scope, status string, p web.Page) ([]adminapi.Job, string, error) {
	return part(s, only(f.jobs, func(j *adminapi.Job) bool { return status == "" || j.Status == status }), p)
}
func (f *fleet) Job(_ context.Context, s access.Scope, id string) (adminapi.Job, error) {
	return one(s, f.jobs, func(j *adminapi.Job) bool { return j.Id == id })
}
func (f *fleet) JobExecutions(_ context.Context, s access.Scope, job, status string, p web.Page) ([]adminapi.JobExecution, string, error) {
	return part(s, only(f.executions, func(e *adminapi.JobExecution) bool { return e.Job == job && (status == "" || e.Status == status) }), p)
}
func (f *fleet) ThingJobs(_ context.Context, s access.Scope, thing, status string, p web.Page) ([]adminapi.JobExecution, string, error) {
	if _, err := f.Thing(context.Background(), s, thing); err != nil {
		return nil, "", err
	}
	return part(s, only(f.executions, func(e *adminapi.JobExecution) bool { return e.Thing == thing && (status == "" || e.Status == status) }), p)
}
func (f *fleet) Shadow(ctx context.Context, s access.Scope, thing, name string) (adminapi.Shadow, error) {
	state, ok := f.shadows[name]
	if _, err := f.Thing(ctx, s, thing); err != nil || !ok || thing != lamp {
		return adminapi.Shadow{}, errAbsent.New("")
	}
	return adminapi.Shadow{Thing: thing, Name: name, Version: 41, State: json.RawMessage(state), Metadata: json.RawMessage(`{"desired":{"light":{"timestamp":1790000000}}}`)}, nil
}
func (f *fleet) Shadows(ctx context.Context, s access.Scope, thing string, p web.Page) (out adminapi.ShadowPage, err error) {
	if _, err := f.Thing(ctx, s, thing); err != nil || thing != lamp {
		return out, err
	}
	names := []string{"deleted-since"} // its look-up finds nothing
	for name := range f.shadows {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out.Classic = true
	out.Items, out.Next, err = part(s, names, p)
	return out, err
}
func (f *fleet) Policies(_ context.Context, s access.Scope, p web.Page) ([]adminapi.DevicePolicy, string, error) {
	return part(s, f.policies, p)
}
func (f *fleet) Policy(_ context.Context, s access.Scope, name string) (adminapi.DevicePolicy, error) {
	return one(s, f.policies, func(p *adminapi.DevicePolicy) bool { return p.Name == name })
}
func (f *fleet) PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (adminapi.DevicePolicyVersion, error) {
	p, err := f.Policy(ctx, s, name)
	if err != nil {
		return adminapi.DevicePolicyVersion{}, err
	}
	return one(s, p.Versions, func(v *adminapi.DevicePolicyVersion) bool { return v.Version == number })
}
func (f *fleet) PolicyTargets(_ context.Context, s access.Scope, name string, p web.Page) ([]adminapi.PolicyTarget, string, error) {
	return part(s, only(f.targets, func(t *adminapi.PolicyTarget) bool { return t.Policy == name }), p)
}
func (f *fleet) AttachedPolicies(_ context.Context, s access.Scope, q web.AttachedQuery) ([]adminapi.AttachedPolicy, error) {
	if q.Thing == deaf {
		return nil, nil
	}
	return all(s, f.attached)
}
func (f *fleet) Templates(_ context.Context, s access.Scope) ([]adminapi.Template, error) {
	return all(s, f.templates)
}
func (f *fleet) Template(_ context.Context, s access.Scope, name string) (adminapi.Template, error) {
	return one(s, f.templates, func(t *adminapi.Template) bool { return t.Name == name })
}
func (f *fleet) FleetTemplates(_ context.Context, s access.Scope) ([]adminapi.FleetTemplate, error) {
	return all(s, f.fleetTmpl)
}
func (f *fleet) Registrations(_ context.Context, s access.Scope) ([]adminapi.RegistrationRule, error) {
	return all(s, f.rules)
}
func (f *fleet) Hooks(_ context.Context, s access.Scope) ([]adminapi.Hook, error) {
	return all(s, f.hooks)
}
func (f *fleet) RegisteredCAs(_ context.Context, s access.Scope, p web.Page) ([]adminapi.RegisteredCA, string, error) {
	return part(s, f.cas, p)
}
func (f *fleet) RegisteredCA(_ context.Context, s access.Scope, id string) (adminapi.RegisteredCA, error) {
	return one(s, f.cas, func(c *adminapi.RegisteredCA) bool { return c.Id == id })
}
func (f *fleet) FleetCertificates(_ context.Context, s access.Scope, q web.FleetCertificateQuery, p web.Page) ([]adminapi.FleetCertificate, string, error) {
	return part(s, only(f.certs, func(c *adminapi.FleetCertificate) bool {
		return (q.CA == "" || c.Ca == q.CA) && (q.Status == "" || c.Status == q.Status)
	}), p)
}
func (f *fleet) FleetCertificate(_ context.Context, s access.Scope, id string) (adminapi.FleetCertificate, error) {
	return one(s, f.certs, func(c *adminapi.FleetCertificate) bool { return c.Id == id })
}
func (f *fleet) Claims(_ context.Context, s access.Scope, p web.Page) ([]adminapi.Claim, string, error) {
	return part(s, f.claims, p)
}
func (f *fleet) Claim(_ context.Context, s access.Scope, id string) (adminapi.Claim, error) {
	return one(s, f.claims, func(c *adminapi.Claim) bool { return c.Certificate == id })
}

// fill makes a fleet with a bit of everything, and with names that would do harm.
func (f *fleet) fill() {
	f.fillCampaigns()
	f.fillFirmware()
	now := f.now().UTC().Truncate(time.Second)
	day := 24 * time.Hour
	for i := range 60 {
		t := adminapi.Thing{Name: fmt.Sprintf("LMP-%06d", i+1), Type: "lamp", Attributes: map[string]string{"model": "LMP-E27"}, Groups: []string{"berlin"}, Version: 2, CreatedAt: now.Add(-40 * day), UpdatedAt: now.Add(-day),
			Principals: []adminapi.ThingPrincipal{{Authority: "devices-1", Serial: webtest.Serial(101), Certificate: certID, Kind: "EXCLUSIVE_THING", Status: "ACTIVE", AttachedAt: now.Add(-40 * day), NotAfter: now.Add(700 * day)}}}
		t.Connectivity = adminapi.ThingConnectivity{Connected: i%3 != 0, At: now.Add(-time.Duration(i+1) * 3 * time.Hour), Client: t.Name}
		if !t.Connectivity.Connected {
			t.Connectivity.Reason = "CONNECTION_LOST"
		}
		f.things = append(f.things, t)
		f.members = append(f.members, t.Name)
	}
	f.things[0].Holder, f.things[0].BillingGroup, f.things[0].RegisteredBy = lamp, "berlin-office", "devices-1"
	f.things[0].Connectivity = adminapi.ThingConnectivity{Connected: true, At: now.Add(-3 * time.Hour), Client: lamp}
	f.things[0].Groups, f.things[0].DynamicGroups = []string{deepest, "berlin", "lamps", "eu"}, []string{dynamic}
	f.things[0].Configuration = map[string]string{"report_interval_seconds_of_the_device": "300"}
	f.things[0].Attributes = map[string]string{"model": "LMP-E27", "label": hostile, hostile: "in a name", "file": turned, "text": hebrew, "note": strings.Repeat("very-long-", 60)}
	f.things[0].Principals = append(f.things[0].Principals, adminapi.ThingPrincipal{Certificate: waitID, Kind: "NON_EXCLUSIVE_THING", Status: "PENDING_ACTIVATION", AttachedAt: now.Add(-time.Hour), NotAfter: now.Add(300 * day)},
		adminapi.ThingPrincipal{Authority: "devices-1", Serial: webtest.Serial(2), Status: "REVOKED", AttachedAt: now.Add(-90 * day), NotAfter: now.Add(10 * day)})
	f.things[1] = adminapi.Thing{Name: deaf, CreatedAt: now, Version: 1}
	f.things[2].Name, f.things[2].Type = long, long
	f.types = []adminapi.ThingType{{Name: "lamp", Description: "Lamps of the E series", Attributes: []string{"model", "colour"}, Tags: map[string]string{"team": hostile}, CreatedAt: now.Add(-90 * day), UpdatedAt: now, Version: 3},
		{Name: long, Description: hostile + turned, DeprecatedAt: now.Add(-day), CreatedAt: now.Add(-90 * day)}}
	parent := ""
	static := func(name, parent, text string) {
		f.groups = append(f.groups, adminapi.ThingGroup{Name: name, Parent: parent, Description: text, Status: "ACTIVE", CreatedAt: now.Add(-60 * day), Version: 1})
	}
	for _, name := range []string{"world", "eu", "germany", "berlin", "office-4", "floor-2", deepest} {
		static(name, parent, "")
		parent = name
	}
	static("lamps", "", hostile)
	static("amsterdam", "eu", hebrew)
	static(long, "eu", "a long name")
	f.groups[3].Attributes, f.groups[3].Tags = map[string]string{"manager": turned}, map[string]string{"cost": hostile}
	f.groups = append(f.groups, adminapi.ThingGroup{Name: dynamic, Query: "connectivity.connected:false AND attributes.model:LMP*", Status: "BUILDING", CreatedAt: now, Version: 1})
	f.billing = []adminapi.ThingGroup{{Name: "berlin-office", Description: "They pay", Status: "ACTIVE", CreatedAt: now, Version: 1}}

	job := func(id, status string, c adminapi.JobCounts) adminapi.Job {
		return adminapi.Job{Id: id, Status: status, Targets: []string{"thinggroup/berlin"}, Document: `{"operation":"update","version":"7","files":[{"url":"https://files.example.com/7.bin","sha256":"` + strings.Repeat("ab", 32) + `"}]}`,
			Counts: c, LookedAtAll: true, CreatedAt: now.Add(-5 * time.Hour), UpdatedAt: now.Add(-time.Minute), Version: 9}
	}
	big := job(rollout, "IN_PROGRESS", adminapi.JobCounts{Succeeded: 8123, Failed: 41, Rejected: 3, TimedOut: 12, Canceled: 5, Removed: 1, InProgress: 230, Queued: 910, Waiting: 2675})
	big.Targets = []string{"thinggroup/berlin", "thinggroup/" + long, "thing/" + lamp}
	big.Description, big.Continuous, big.TimeoutMinutes, big.UrlSeconds = "Firmware 7 for lamps "+hostile, true, 30, 3600
	big.Rollout = adminapi.JobRollout{MaxPerMinute: 1000, BasePerMinute: 50, Factor: 1.5, PerSucceeded: 500}
	big.Abort, big.Retry = []adminapi.JobAbort{{Failure: "FAILED", Percent: 12.5, MinExecuted: 100}}, []adminapi.JobRetry{{Failure: "TIMED_OUT", Retries: 2}}
	big.Schedule = adminapi.JobSchedule{Start: now.Add(-6 * time.Hour), End: now.Add(7 * day), EndBehavior: "STOP_ROLLOUT", Windows: []adminapi.JobWindow{{Start: "cron(0 2 ? * * *)", Minutes: 120}}}
	big.Parameters, big.Tags = map[string]string{"channel": turned}, map[string]string{"ticket": hostile}
	gone := job("config-eu", "CANCELED", adminapi.JobCounts{Canceled: 80, Succeeded: 20})
	gone.ReasonCode, gone.Comment, gone.Forced = "WRONG_FILE", "the file was that of another product "+hostile, true
	f.jobs = []adminapi.Job{big, gone, job("night", "SCHEDULED", adminapi.JobCounts{Waiting: 40}), job("restart", "COMPLETED", adminapi.JobCounts{Succeeded: 1200}), job("nobody", "IN_PROGRESS", adminapi.JobCounts{})}
	f.jobs[2].LookedAtAll, f.jobs[4].LookedAtAll = false, false
	for i := range 60 {
		e := adminapi.JobExecution{Job: rollout, Thing: fmt.Sprintf("LMP-%06d", i+1), Number: 1, Status: "SUCCEEDED", QueuedAt: now.Add(-4 * time.Hour), StartedAt: now.Add(-3 * time.Hour), UpdatedAt: now.Add(-2 * time.Hour), Version: 3}
		switch i % 5 {
		case 1:
			e.Status, e.Details = "FAILED", map[string]string{"reason": hostile, "code": "7", "text": turned + strings.Repeat("x", 300)}
		case 2:
			e.Status, e.StartedAt, e.DueAt = "IN_PROGRESS", now.Add(-time.Minute), now.Add(29*time.Minute)
		case 3:
			e.Status, e.StartedAt, e.Number = "QUEUED", time.Time{}, 2
		}
		f.executions = append(f.executions, e)
	}
	for i := range 12 {
		f.executions = append(f.executions, adminapi.JobExecution{Job: fmt.Sprintf("nightly-%02d", i), Thing: lamp, Number: 1, Status: "SUCCEEDED", QueuedAt: now.Add(-time.Duration(i+1) * day), StartedAt: now.Add(-time.Duration(i+1) * day), UpdatedAt: now.Add(-time.Duration(i+1)*day + time.Hour), Version: 2})
	}
	f.shadows = map[string]string{
		"":       `{"desired":{"light":"on","colour":{"r":255,"g":120,"b":0}},"reported":{"light":"off","firmware":"6.2","label":` + quoted(hostile+turned) + `},"delta":{"light":"on","colour":{"r":255,"g":120,"b":0}}}`,
		"config": `{"desired":{"interval":60},"reported":{"interval":60,"serials":["` + strings.Repeat("A1B2C3", 40) + `"]}}`,
	}
	for i := range 60 {
		f.shadows[fmt.Sprintf("part-%02d", i)] = `{"reported":{"i":1}}`
	}
	doc := `{"Version":"2012-10-17","Statement":[{"Sid":"own","Effect":"Allow","Action":["iot:Publish","iot:Receive"],"Resource":["arn:aws:iot:*:*:topic/dt/${iot:Connection.Thing.ThingName}/*"]},{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}]}`
	version := func(n int, isDefault bool) adminapi.DevicePolicyVersion {
		return adminapi.DevicePolicyVersion{Policy: policyID, Version: n, Default: isDefault, Document: doc, CreatedAt: now.Add(-time.Duration(9-n) * day)}
	}
	three := version(3, false)
	three.Findings = []adminapi.PolicyFinding{{Check: "connect-any-client", Reason: "Any client identifier may connect.", Statement: 1, Resource: "*" + hostile}}
	f.policies = []adminapi.DevicePolicy{{Name: policyID, DefaultVersion: 2, LatestVersion: 3, Document: doc, Versions: []adminapi.DevicePolicyVersion{version(1, false), version(2, true), three}, CreatedAt: now.Add(-8 * day), UpdatedAt: now},
		{Name: "p." + long[:126], DefaultVersion: 1, LatestVersion: 1, CreatedAt: now, UpdatedAt: now}}
	f.targets = []adminapi.PolicyTarget{{Policy: policyID, Kind: web.GroupTarget, Name: "berlin"}}
	for i := range 55 {
		f.targets = append(f.targets, adminapi.PolicyTarget{Policy: policyID, Kind: web.CertificateTarget, Name: fmt.Sprintf("d%063d", i+1)})
	}
	f.attached = []adminapi.AttachedPolicy{{Policy: policyID, Version: 2, From: adminapi.PolicyTarget{Policy: policyID, Kind: web.GroupTarget, Name: "berlin"}}, {Policy: "own-topics", Version: 1, From: adminapi.PolicyTarget{Policy: "own-topics", Kind: web.CertificateTarget, Name: certID}}}

	body := `{"Parameters":{"SerialNumber":{"Type":"String"}},"Resources":{"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"SerialNumber"},"AttributePayload":{"label":` + quoted(hostile) + `}}}}}`
	f.templates = []adminapi.Template{{Name: "lamp-boot", Kind: "first-boot", Body: body, UpdatedAt: now.Add(-9 * day)}, {Name: "lamps", Kind: "fleet", Body: body, UpdatedAt: now.Add(-8 * day)}, {Name: "their-lamps", Kind: "jitp", Body: body, UpdatedAt: now}, {Name: "old-stock", Kind: "bulk", Body: "no JSON at all", UpdatedAt: now}}
	f.fleetTmpl = []adminapi.FleetTemplate{{Name: "lamps", Hook: "owner", Issuer: "devices-1", Enabled: true, UpdatedAt: now}}
	f.rules = []adminapi.RegistrationRule{{Authority: "devices-1", Template: "lamp-boot", Hook: "owner", Enabled: true, UpdatedAt: now}, {Authority: caID, Template: "their-lamps", TakeOver: true, UpdatedAt: now}}
	f.hooks = []adminapi.Hook{{Name: "owner", Url: "https://hooks.example.com/" + hostile, Allow: []string{"192.0.2.0/24", "2001:db8::/32"}, KeyIds: []string{"5ac1f0b2", "19ab3c44"}, Secret: secret, UpdatedAt: now}, {Name: "spare", Url: "https://hooks.example.com/" + strings.Repeat("long/", 60), UpdatedAt: now}}

	pemOf := f.Fake.Certificate_[0].Certificate
	f.cas = []adminapi.RegisteredCA{{Id: caID, Subject: "CN=Their CA " + hostile + turned, Status: "ACTIVE", Mode: "DEFAULT", AutoRegistration: true, Proven: true, Template: "their-lamps", Certificate: pemOf, NotAfter: now.Add(900 * day), RegisteredAt: now.Add(-day), UpdatedAt: now,
		Budget: adminapi.RegistrationBudget{Name: "ca/" + caID, Most: 5000, Used: 1234, PerMinute: 60, CreatedAt: now, CreatedBy: "principal:anna"}},
		{Id: "ca" + strings.Repeat("2", 62), Subject: "CN=Example Devices 1", Authority: "devices-1", Status: "ACTIVE", Mode: "DEFAULT", AutoRegistration: true, NotAfter: now.Add(3000 * day), RegisteredAt: now, UpdatedAt: now},
		{Id: "ca" + strings.Repeat("3", 62), Subject: "CN=" + long, Status: "INACTIVE", Mode: "SNI_ONLY", NotAfter: now.Add(30 * day), RegisteredAt: now, UpdatedAt: now}}
	f.certs = []adminapi.FleetCertificate{{Id: certID, Holder: lamp, CommonName: lamp, Status: "ACTIVE", Usable: true, How: "first-boot", Authority: "devices-1", Profile: "ldevid", Serial: webtest.Serial(101), Certificate: pemOf, NotBefore: now.Add(-40 * day), NotAfter: now.Add(700 * day), RegisteredAt: now.Add(-40 * day), UpdatedAt: now,
		Things: []string{lamp}, Policies: []string{"own-topics"}},
		{Id: waitID, Holder: waitID, CommonName: hostile + turned, Status: "PENDING_ACTIVATION", How: "jitr", Ca: caID, NotBefore: now, NotAfter: now.Add(300 * day), RegisteredAt: now, UpdatedAt: now},
		{Id: "d" + strings.Repeat("3", 63), Holder: hebrew, CommonName: long, Status: "REVOKED", Revoked: true, How: "byoc", Ca: caID, NotBefore: now, NotAfter: now.Add(300 * day), RegisteredAt: now, UpdatedAt: now}}
	f.claims = []adminapi.Claim{{Certificate: claimID, Holder: "claims-lamps", Template: "lamps", Status: "ACTIVE", Usable: true, NotAfter: now.Add(300 * day), Budget: adminapi.RegistrationBudget{Name: "claim/" + claimID, Most: 5000, Used: 312, Outstanding: 100, Open: 4, CreatedBy: "principal:anna", CreatedAt: now}},
		{Certificate: emptyID, Holder: hostile, Template: "lamps", Status: "ACTIVE", NotAfter: now.Add(3 * day), Budget: adminapi.RegistrationBudget{Name: "claim/" + emptyID, Most: 10, Used: 10, PerMinute: 5, ExpiresAt: now.Add(2 * day)}}}
}

func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s)
	return strings.TrimSpace(b.String())
}

// fleetPaths are the pages of the fleet, with what each must show.
var fleetPaths = []struct{ name, path, shows string }{
	{"registered-cas", "/console/registered-cas", "their-lamps"},
	{"registered-ca", "/console/registered-cas/" + caID, "proven with a verification certificate"},
	{"registered-ca-waiting", "/console/registered-cas/ca" + strings.Repeat("2", 62), "PENDING_ACTIVATION"},
	{"device-certificates", "/console/device-certificates", waitID},
	{"device-certificates-waiting", "/console/device-certificates?status=PENDING_ACTIVATION&ca=" + caID, waitID},
	{"device-certificate", "/console/device-certificates/" + certID, "own-topics"},
	{"device-certificate-waiting", "/console/device-certificates/" + waitID, "hallmark fleet-cert activate " + waitID},
	{"claims", "/console/claims", "claims-lamps"},
	{"claim", "/console/claims/" + claimID, "at most 100"},
	{"claim-used-up", "/console/claims/" + emptyID, "hallmark claim budget " + emptyID},
	{"templates", "/console/templates", "old-stock"},
	{"template", "/console/templates/lamps", "Certificates by"},
	{"template-jitp", "/console/templates/their-lamps", "may go to another one"},
	{"hooks", "/console/hooks", "19ab3c44"},
	{"policies", "/console/policies", policyID},
	{"policy", "/console/policies/" + policyID, "&#34;Sid&#34;: &#34;own&#34;"},
	{"policy-version", "/console/policies/" + policyID + "?version=3", "Any client identifier may connect."},
	{"things", "/console/things", "LMP-000050"},
	{"things-query", "/console/things?q=thingName:LMP-00002*", "LMP-000029"},
	{"things-attribute", "/console/things?attribute=model&value=LMP", "<th><bdi>model</bdi></th>"},
	{"things-silent", "/console/things?silent=7d", "last seen"},
	{"thing", "/console/things/" + lamp, "Connected"},
	{"thing-bare", "/console/things/" + deaf, "It never connected."},
	{"thing-jobs", "/console/things/" + lamp + "/jobs", "nightly-11"},
	{"shadows", "/console/things/" + lamp + "/shadows", "part-30"},
	{"shadow", "/console/things/" + lamp + "/shadow?name=config", "When each member was set"},
	{"groups", "/console/groups", "in6"},
	{"groups-billing", "/console/groups?kind=billing", "They pay"},
	{"groups-below", "/console/groups?parent=eu", "amsterdam"},
	{"group", "/console/groups/berlin", "office-4"},
	{"group-nested", "/console/groups/berlin?nested=yes", "LMP-000050"},
	{"group-dynamic", "/console/groups/" + dynamic, "Its things are being found"},
	{"billing-group", "/console/billing-groups/berlin-office", "They pay"},
	{"types", "/console/thing-types", "deprecated"},
	{"type", "/console/thing-types/lamp", "colour"},
	{"jobs", "/console/jobs", "12 timed out"},
	{"jobs-completed", "/console/jobs?status=COMPLETED", "restart"},
	{"job", "/console/jobs/" + rollout, "begins with 50 a minute, times 1.5 for every 500 that succeeded"},
	{"job-failed", "/console/jobs/" + rollout + "?status=FAILED", "LMP-000057"},
	{"campaigns", "/console/campaigns", "certificates that end in March"},
	{"campaigns-stopped", "/console/campaigns?state=stopped", broken},
	{"campaign", "/console/campaigns/" + march, "b-rejected"},
	{"campaign-stopped", "/console/campaigns/" + broken, "Of 25 devices that ended 9 failed"},
	{"campaign-waits", "/console/campaigns/" + asks, begin},
	{"campaign-over", "/console/campaigns/winter", "rejected"},
	{"campaign-members", "/console/campaigns/" + march + "?state=failed", "The broker did not let it in"},
	{"expiring", "/console/expiring", "devices-1"},
	{"timeline", "/console/things/" + lamp + "/timeline", "Old certificate retired"},
	{"timeline-rotations", "/console/things/" + lamp + "/timeline?kind=rotation", "Got a new certificate"},
	{"firmware", "/console/firmware", "The manifest has ended."},
	{"firmware-class", "/console/firmware?class=sensor", "All classes"},
	{"firmware-version", "/console/firmware/lamp/1.4.0", broken},
	{"firmware-waits", "/console/firmware/lamp/1.5.0", "A second person decides"},
	{"firmware-withdrawn", "/console/firmware/lamp/1.3.9", "It is withdrawn"},
	{"firmware-expired", "/console/firmware/sensor/2.0", "none that count"},
	{"trust", "/console/trust", "no root that is known"},
	{"trust-rollover", "/console/trust/" + rolls, "The gate to switching is closed"},
	{"trust-rollover-open", "/console/trust/" + opens, "Pass the gate to removing"},
	{"trust-rollover-over", "/console/trust/roots-2020", "is not told to new ones"},
	{"job-canceled", "/console/jobs/config-eu", "WRONG_FILE"},
}

func TestConsole_ShowsEveryPageOfTheFleet(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	for _, p := range fleetPaths {
		r, body := s.get(t, p.path)
		if r.StatusCode != 200 || !strings.Contains(body, p.shows) || !strings.HasSuffix(strings.TrimSpace(body), "</html>") {
			t.Errorf("%s: %d, or it does not show %q:\n%s", p.name, r.StatusCode, p.shows, body)
		}
		for _, bad := range []string{"%!", "<no value>", "ZgotmplZ", "<nil>", "0001-01-01", " style=", " onclick"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s shows %q", p.name, bad)
			}
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s has the policy %q", p.name, csp)
		}
		if !strings.Contains(body, `aria-current="page"`) {
			t.Errorf("%s is nowhere in the navigation", p.name)
		}
	}
}

// A55: what devices and other companies name is text, and turns or hides nothing
// beside it. The secret of a hook is on no page.
func TestA55_NamesOfTheFleetAreText(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	var escaped, named int
	for _, p := range fleetPaths {
		_, body := s.get(t, p.path)
		for _, bad := range []string{"<script>", "<img src=x", "\u202e", secret} {
			if strings.Contains(body, bad) {
				t.Errorf("%s holds %q", p.name, bad)
			}
		}
		escaped += strings.Count(body, "&lt;script&gt;")
		named += strings.Count(body, "U+202E")
	}
	if escaped < 15 || named < 5 {
		t.Errorf("the hostile names are on the pages %d and %d times: the test looks at nothing", escaped, named)
	}
	_, body := s.get(t, "/console/things/"+lamp)
	if !strings.Contains(body, "<bdi>"+hebrew+"</bdi>") || !strings.Contains(body, strings.Repeat("very-long-", 60)) {
		t.Error("text from right to left or long text is cut or changed")
	}
}

func TestConsole_EmptyPagesOfTheFleetSayWhatToDo(t *testing.T) {
	s := serve(t, false)
	s.signIn(t, access.SecurityOfficer)
	for path, command := range map[string]string{
		"/console/registered-cas": "hallmark registered-ca register", "/console/device-certificates": "hallmark fleet-cert register", "/console/claims": "hallmark claim create",
		"/console/templates": "hallmark template put", "/console/hooks": "hallmark template enable", "/console/policies": "hallmark policy create", "/console/things": "hallmark thing create",
		"/console/groups": "hallmark thing-group create", "/console/groups?kind=billing": "hallmark billing-group create", "/console/thing-types": "hallmark thing-type create", "/console/jobs": "hallmark job create",
		"/console/campaigns": "hallmark campaign plan", "/console/expiring": "hallmark campaign plan",
		"/console/firmware": "hallmark ota publish", "/console/trust": "hallmark trust rollover plan",
	} {
		if r, body := s.get(t, path); r.StatusCode != 200 || !strings.Contains(body, "card empty") || !strings.Contains(body, command) {
			t.Errorf("%s: %d without %q:\n%s", path, r.StatusCode, command, body)
		}
	}
}

// Another tenant's people see none of it, under any address.
func TestConsole_FleetIsTheTenants(t *testing.T) {
	s := serve(t, true)
	s.signInAs(t, webtest.Other, access.SecurityOfficer)
	for _, p := range fleetPaths {
		path, _, filtered := strings.Cut(p.path, "?")
		isList := strings.Count(path, "/") == 2
		r, body := s.get(t, p.path)
		if want := map[bool]int{true: 200, false: 404}[isList]; r.StatusCode != want {
			t.Errorf("%s of another tenant: %d, want %d", p.path, r.StatusCode, want)
		}
		if strings.Contains(body, p.shows) && !filtered {
			t.Errorf("%s shows %q to another tenant", p.path, p.shows)
		}
		for _, name := range []string{lamp, rollout, waitID, "office-4", "their-lamps", "claims-lamps"} {
			if strings.Contains(body, name) {
				t.Errorf("%s names %s to another tenant", p.path, name)
			}
		}
	}
	for _, path := range []string{"/console/registered-cas/" + caID + "/pem", "/console/device-certificates/" + certID + "/pem"} {
		if r, _ := s.get(t, path); r.StatusCode != 404 {
			t.Errorf("%s of another tenant: %d", path, r.StatusCode)
		}
	}
}

// A66: a cursor is of its list, its filter and its tenant.
func TestConsole_FleetPagesGoOn(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	for path, next := range map[string]string{
		"/console/things": "LMP-000060", "/console/things?attribute=model&value=LMP": "LMP-000060", "/console/jobs/" + rollout: "LMP-000060",
		"/console/groups/berlin": "LMP-000060", "/console/policies/" + policyID: "d" + fmt.Sprintf("%063d", 55), "/console/things/" + lamp + "/shadows": "part-59",
	} {
		_, first := s.get(t, path)
		href := nextOf(first)
		if href == "" || strings.Contains(first, next) {
			t.Errorf("%s: no second page", path)
			continue
		}
		if r, body := s.get(t, href); r.StatusCode != 200 || !strings.Contains(body, next) || nextOf(body) != "" {
			t.Errorf("%s: the second page gives %d, or is not the last with %s", path, r.StatusCode, next)
		}
		if r, _ := s.get(t, href+"A"); r.StatusCode != 400 {
			t.Errorf("%s: an altered cursor gives %d", path, r.StatusCode)
		}
	}
	_, first := s.get(t, "/console/things")
	_, cursor, _ := strings.Cut(nextOf(first), "cursor=")
	for _, path := range []string{"/console/device-certificates?cursor=", "/console/things?silent=1h&cursor=", "/console/jobs/" + rollout + "?cursor="} {
		if r, _ := s.get(t, path+cursor); r.StatusCode != 400 {
			t.Errorf("%s takes a cursor of another list: %d", path, r.StatusCode)
		}
	}
}

func nextOf(body string) string {
	before, _, ok := strings.Cut(body, `" rel="next"`)
	if !ok {
		return ""
	}
	href, _, _ := strings.Cut(before[strings.LastIndex(before, `href="`)+6:], "#")
	return strings.ReplaceAll(href, "&amp;", "&")
}

func TestConsole_AWrongSearchIsCorrectedInPlace(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.FleetOperator)
	for _, query := range []string{"q=colour%3A%3A%22%3E%3Cscript%3E", "value=x", "q=thingName%3Ax&silent=1h", "silent=2y", "attribute=model&silent=1h"} {
		r, body := s.get(t, "/console/things?"+query)
		if r.StatusCode != 400 || !strings.Contains(body, `role="alert"`) || !strings.Contains(body, `role="search"`) || strings.Contains(body, "<script>") {
			t.Errorf("%s: %d:\n%s", query, r.StatusCode, body)
		}
	}
	if _, body := s.get(t, "/console/things?q=colour%3A%22red"); !strings.Contains(body, `value="colour:&#34;red"`) {
		t.Error("the query is not kept to be corrected")
	}
	for _, path := range []string{"/console/jobs?status=GOOD", "/console/jobs/" + rollout + "?status=good", "/console/device-certificates?status=x", "/console/policies/" + policyID + "?version=two"} {
		if r, _ := s.get(t, path); r.StatusCode != 400 {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	for _, path := range []string{"/console/policies/" + policyID + "?version=9", "/console/things/nobody", "/console/things/" + lamp + "/shadow?name=none", "/console/jobs/none", "/console/groups/none", "/console/templates/none", "/console/claims/none"} {
		if r, body := s.get(t, path); r.StatusCode != 404 || !strings.Contains(body, "There is no such record.") {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
}

func TestConsole_ManyGroupsAreAList(t *testing.T) {
	s := serve(t, true)
	for i := range 600 {
		s.fleet.groups = append(s.fleet.groups, adminapi.ThingGroup{Name: fmt.Sprintf("site-%04d", i), Parent: "eu", Status: "ACTIVE"})
	}
	s.signIn(t, access.Auditor)
	_, body := s.get(t, "/console/groups")
	if strings.Contains(body, "in6") || nextOf(body) == "" {
		t.Error("611 groups are a tree, or have no second page")
	}
	_, body = s.get(t, "/console/groups?q=site-059")
	if !strings.Contains(body, "site-0599") || strings.Contains(body, "site-0001") {
		t.Error("the search by name does not search")
	}
}

// A group that names itself as the one above it, which nobody can make, ends
// neither the tree nor the way to the top.
func TestConsole_ARingOfGroupsEnds(t *testing.T) {
	s := serve(t, true)
	s.fleet.groups = []adminapi.ThingGroup{{Name: "a", Parent: "b", Status: "ACTIVE"}, {Name: "b", Parent: "a", Status: "ACTIVE"}}
	s.signIn(t, access.Auditor)
	for _, path := range []string{"/console/groups", "/console/groups/a"} {
		if r, body := s.get(t, path); r.StatusCode != 200 || !strings.Contains(body, `/console/groups/b"`) {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
}
