// Package webtest is a service in memory for tests of the API and the console:
// principals of every role in two tenants, and one tenant with orders, units,
// certificates, stations and things. It keeps what it is given and knows
// tenants, as the real domains do; it signs nothing.
package webtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fault"
	"hallmark/web"
)

// Tenants of the fixtures: Other has people and nothing else.
const (
	Tenant = access.DefaultTenant
	Other  = "other"
)

// Names of what the fixtures hold.
const (
	OpenOrder = "PO-2026-117"
	Draft     = "PO-2026-118"
	Unit      = "LMP-000001"
	Blocked   = "LMP-000002"
	Station   = "sz2-line-4"
	Hostile   = `<script>alert(1)</script>`
)

// errUnknown is not defined by fault.Define: it is no fault of the program.
var errUnknown = &fault.Definition{Kind: fault.NotFound, Code: "webtest-unknown", What: "There is no such record.", Next: "Check the name."}

// Store is an [access.Store] in memory.
type Store struct {
	mu   sync.Mutex
	rows []access.Principal
	Down error // returned by every method, if set
}

var _ access.Store = (*Store)(nil)

// CreatePrincipal implements [access.Store].
func (s *Store) CreatePrincipal(_ context.Context, p access.Principal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(p.Tenant, p.Name) != nil {
		return access.ErrPrincipalExists.New("%s.", p.Name)
	}
	s.rows = append(s.rows, p)
	return s.Down
}

// CreateFirstPrincipal implements [access.Store].
func (s *Store) CreateFirstPrincipal(_ context.Context, p access.Principal) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rows) > 0 {
		return false, s.Down
	}
	s.rows = append(s.rows, p)
	return true, s.Down
}

func (s *Store) find(tenant, name string) *access.Principal {
	for i := range s.rows {
		if s.rows[i].Tenant == tenant && s.rows[i].Name == name {
			return &s.rows[i]
		}
	}
	return nil
}

// PrincipalByToken implements [access.Store].
func (s *Store) PrincipalByToken(_ context.Context, hash [32]byte) (access.Principal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Down != nil {
		return access.Principal{}, s.Down
	}
	for _, p := range s.rows {
		if p.TokenHash == hash {
			return p, nil
		}
	}
	return access.Principal{}, access.ErrToken.New("")
}

// Principal implements [access.Store].
func (s *Store) Principal(_ context.Context, sc access.Scope, name string) (access.Principal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.find(sc.Tenant, name); p != nil {
		return *p, s.Down
	}
	return access.Principal{}, access.ErrPrincipalUnknown.New("%s.", name)
}

// Principals implements [access.Store].
func (s *Store) Principals(_ context.Context, sc access.Scope, after string, limit int) (out []access.Principal, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.rows {
		if p.Tenant == sc.Tenant && p.Name > after {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b access.Principal) int { return strings.Compare(a.Name, b.Name) })
	return out[:min(len(out), limit)], s.Down
}

// DisablePrincipal implements [access.Store].
func (s *Store) DisablePrincipal(_ context.Context, sc access.Scope, name string, now time.Time) (access.Principal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(sc.Tenant, name)
	if p == nil {
		return access.Principal{}, access.ErrPrincipalUnknown.New("%s.", name)
	}
	p.DisabledAt = now
	return *p, s.Down
}

// Service is the fixture.
type Service struct {
	Store  *Store
	Access *access.Authenticator
	Tokens map[string]map[access.Role]string // by tenant
	Fake   *Fake
}

// New makes a service with people of every role in both tenants. Content is
// filled by [Fake.Fill].
func New(t testing.TB, now func() time.Time) *Service {
	t.Helper()
	s := &Service{Store: &Store{}, Tokens: map[string]map[access.Role]string{}, Fake: &Fake{Now: now}}
	if s.Fake.Now == nil {
		s.Fake.Now = time.Now
	}
	s.Access = access.NewAuthenticator(access.Config{Store: s.Store, Now: now})
	for _, tenant := range []string{Tenant, Other} {
		s.Tokens[tenant] = map[access.Role]string{}
		maker := access.Actor{Tenant: tenant, Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}
		for _, role := range access.Roles() {
			_, token, err := s.Access.Create(t.Context(), maker, "a-"+string(role), role, 0)
			if err != nil {
				t.Fatal(err)
			}
			s.Tokens[tenant][role] = token.Reveal()
		}
	}
	return s
}

// Backend is the fake as a backend.
func (s *Service) Backend() web.Backend {
	f := s.Fake
	return web.Backend{Orders: f, Stations: f, Enrolment: f, Certificates: f, Trust: f, Authorities: f, Registry: f, Things: f, ThingTypes: f, Groups: f, Policies: f, Registration: f, Jobs: f, Campaigns: f, Rotation: f, Firmware: f, Bundles: f, Ownership: f, Shadows: f, Plans: f, Revocations: f, Log: f, Trail: f, Backup: f, Health: f}
}

// Fake is every part of a [web.Backend].
type Fake struct {
	Now   func() time.Time
	Panic bool // every look at the summary panics

	Order_       []adminapi.Order
	Unit_        []adminapi.Unit
	Station_     []adminapi.Station
	Certificate_ []adminapi.Certificate
	Authority_   []adminapi.Authority
	List_        []adminapi.List
	Thing_       []adminapi.Thing
	Blocks       map[string]string
	Summary_     adminapi.Summary
	Calls        []string // of methods that change something
	Approved     adminapi.Envelope

	NoTrail error // the trail cannot be written
	trail   sync.Mutex
	entries []access.TrailEntry
}

func known(s access.Scope) error {
	if s.Tenant != Tenant {
		return errUnknown.New("")
	}
	return nil
}

func pick[T any](s access.Scope, items []T, is func(*T) bool) (v T, err error) {
	if s.Tenant == Tenant {
		for i := range items {
			if is(&items[i]) {
				return items[i], nil
			}
		}
	}
	return v, errUnknown.New("")
}

func cut[T any](s access.Scope, items []T, p web.Page) (out []T, next string, err error) {
	if s.Tenant != Tenant {
		return nil, "", nil
	}
	from := 0
	if p.After != "" {
		if from, err = strconv.Atoi(p.After); err != nil || from > len(items) {
			return nil, "", web.ErrCursor.New("")
		}
	}
	to := min(from+p.Limit, len(items))
	if to < len(items) {
		next = strconv.Itoa(to)
	}
	return items[from:to], next, nil
}

func (f *Fake) did(by access.Actor, what string, args ...any) error {
	f.Calls = append(f.Calls, fmt.Sprintf(what, args...))
	return known(by.Scope())
}

// CreateOrder implements [web.Orders].
func (f *Fake) CreateOrder(_ context.Context, by access.Actor, r adminapi.OrderRequest) (adminapi.Order, error) {
	f.Calls = append(f.Calls, "create order "+r.Id)
	return adminapi.Order{Id: r.Id, Product: r.Product, Quantity: r.Quantity, State: "draft", Stations: []string{}, KeyOrigin: r.KeyOrigin, Body: []byte("{}"), Approvals: []adminapi.Approval{}, CreatedBy: by.Name, CreatedAt: f.Now()}, nil
}

// Order implements [web.Orders].
func (f *Fake) Order(_ context.Context, s access.Scope, id string) (adminapi.Order, error) {
	return pick(s, f.Order_, func(o *adminapi.Order) bool { return o.Id == id })
}

// Orders implements [web.Orders].
func (f *Fake) Orders(_ context.Context, s access.Scope, state string, p web.Page) ([]adminapi.Order, string, error) {
	var in []adminapi.Order
	for _, o := range f.Order_ {
		if state == "" || o.State == state {
			in = append(in, o)
		}
	}
	return cut(s, in, p)
}

func (f *Fake) move(by access.Actor, id, verb string) (adminapi.Order, error) {
	if err := f.did(by, "%s order %s", verb, id); err != nil {
		return adminapi.Order{}, err
	}
	return f.Order(context.Background(), by.Scope(), id)
}

// ApproveOrder implements [web.Orders].
func (f *Fake) ApproveOrder(_ context.Context, by access.Actor, id string, e adminapi.Envelope) (adminapi.Order, error) {
	f.Approved = e
	return f.move(by, id, "approve")
}

// OpenOrder implements [web.Orders].
func (f *Fake) OpenOrder(_ context.Context, by access.Actor, id string) (adminapi.Order, error) {
	return f.move(by, id, "open")
}

// CloseOrder implements [web.Orders].
func (f *Fake) CloseOrder(_ context.Context, by access.Actor, id string) (adminapi.Order, error) {
	return f.move(by, id, "close")
}

// Units implements [web.Orders].
func (f *Fake) Units(ctx context.Context, s access.Scope, order string, p web.Page) ([]adminapi.Unit, string, error) {
	if _, err := f.Order(ctx, s, order); err != nil {
		return nil, "", err
	}
	if order != OpenOrder {
		return nil, "", nil
	}
	return cut(s, f.Unit_, p)
}

// CreateStationCode implements [web.Stations].
func (f *Fake) CreateStationCode(_ context.Context, by access.Actor, r adminapi.StationCodeRequest) (adminapi.StationCode, error) {
	f.Calls = append(f.Calls, "station code "+r.Station)
	return adminapi.StationCode{Station: r.Station, Site: r.Site, Code: "HMK1-TEST", ExpiresAt: f.Now().Add(time.Hour)}, nil
}

// CreateEnrolPassword implements [web.Enrolment].
func (f *Fake) CreateEnrolPassword(_ context.Context, by access.Actor, r adminapi.EnrolPasswordRequest) (adminapi.EnrolPassword, error) {
	f.Calls = append(f.Calls, "enrol password "+r.Unit)
	return adminapi.EnrolPassword{Reference: "a2b3c4d5e6f7g8h9", Unit: r.Unit, Profile: r.Profile, Order: r.Order, Password: "test-password", ExpiresAt: f.Now().Add(time.Hour)}, nil
}

// AcmeKey is the external account key of the fixtures.
const AcmeKey = "a2b3c4d5e6f7g8h9"

func (f *Fake) acmeKey(profile string, names []string) adminapi.AcmeKey {
	return adminapi.AcmeKey{Id: AcmeKey, Profile: profile, Names: names, CreatedBy: "ann", CreatedAt: f.Now(), ExpiresAt: f.Now().Add(time.Hour), State: "open"}
}

// AcmeKeys implements [web.Enrolment].
func (f *Fake) AcmeKeys(_ context.Context, s access.Scope) ([]adminapi.AcmeKey, error) {
	out, _, err := cut(s, []adminapi.AcmeKey{f.acmeKey("ldevid", []string{Unit})}, web.Page{Limit: 1000})
	return out, err
}

// CreateAcmeKey implements [web.Enrolment].
func (f *Fake) CreateAcmeKey(_ context.Context, by access.Actor, r adminapi.AcmeKeyRequest) (adminapi.AcmeKey, error) {
	f.Calls = append(f.Calls, "acme key for "+r.Profile)
	k := f.acmeKey(r.Profile, r.Names)
	k.Secret = "test-secret"
	return k, nil
}

// RevokeAcmeKey implements [web.Enrolment].
func (f *Fake) RevokeAcmeKey(_ context.Context, by access.Actor, id string) (adminapi.AcmeKey, error) {
	if err := f.did(by, "revoke acme key %s", id); err != nil {
		return adminapi.AcmeKey{}, err
	}
	k := f.acmeKey("ldevid", []string{Unit})
	k.State = "revoked"
	return pick(by.Scope(), []adminapi.AcmeKey{k}, func(k *adminapi.AcmeKey) bool { return k.Id == id })
}

// Stations implements [web.Stations].
func (f *Fake) Stations(_ context.Context, s access.Scope) ([]adminapi.Station, error) {
	out, _, err := cut(s, f.Station_, web.Page{Limit: 1000})
	return out, err
}

// RevokeStation implements [web.Stations].
func (f *Fake) RevokeStation(_ context.Context, by access.Actor, id string, _ adminapi.StationRevokeRequest) (adminapi.Station, error) {
	if err := f.did(by, "revoke station %s", id); err != nil {
		return adminapi.Station{}, err
	}
	return pick(by.Scope(), f.Station_, func(s *adminapi.Station) bool { return s.Id == id })
}

func summary(c *adminapi.Certificate) adminapi.CertificateSummary {
	return adminapi.CertificateSummary{Serial: c.Serial, Authority: c.Authority, Holder: c.Holder, Profile: c.Profile, Slot: c.Slot, Status: c.Status, NotBefore: c.NotBefore, NotAfter: c.NotAfter, IssuedAt: c.IssuedAt, Account: c.Account}
}

// Certificates implements [web.Certificates].
func (f *Fake) Certificates(_ context.Context, s access.Scope, q web.CertificateQuery, p web.Page) ([]adminapi.CertificateSummary, string, error) {
	var in []adminapi.CertificateSummary
	for i := range f.Certificate_ {
		c := &f.Certificate_[i]
		if strings.HasPrefix(strings.ToLower(c.Holder), strings.ToLower(q.Holder)) && (q.Serial == "" || q.Serial == c.Serial) && (q.Status == "" || q.Status == c.Status) &&
			(q.Authority == "" || q.Authority == c.Authority) && (q.Profile == "" || q.Profile == c.Profile) && (q.Order == "" || q.Order == c.Account) {
			in = append(in, summary(c))
		}
	}
	return cut(s, in, p)
}

// Certificate implements [web.Certificates].
func (f *Fake) Certificate(_ context.Context, s access.Scope, serial string) (adminapi.Certificate, error) {
	return pick(s, f.Certificate_, func(c *adminapi.Certificate) bool { return strings.EqualFold(c.Serial, serial) })
}

// Device implements [web.Certificates].
func (f *Fake) Device(_ context.Context, s access.Scope, holder string) (adminapi.Device, error) {
	d := adminapi.Device{Identities: []adminapi.DeviceIdentity{}, Certificates: []adminapi.CertificateSummary{}}
	for i := range f.Certificate_ {
		if c := &f.Certificate_[i]; s.Tenant == Tenant && strings.EqualFold(c.Holder, holder) {
			d.Holder = c.Holder
			d.Certificates = append(d.Certificates, summary(c))
			id := adminapi.DeviceIdentity{Profile: c.Profile, Slot: c.Slot, State: "issued", Account: c.Account, Serial: c.Serial}
			if c.Profile == "idevid" {
				id.State, id.Station, id.InstalledAt, id.Proven = "installed", Station, c.IssuedAt.Add(41*time.Second), true
			}
			d.Identities = append(d.Identities, id)
		}
	}
	if d.Holder == "" {
		return d, errUnknown.New("")
	}
	if note, ok := f.Blocks[d.Holder]; ok {
		d.Blocked, d.BlockedAt, d.BlockedBy, d.Note = true, f.Now().Add(-2*time.Hour), "principal:anna", note
	}
	for _, t := range f.Thing_ {
		if t.Holder == d.Holder {
			d.Thing = t
		}
	}
	return d, nil
}

// RevokeCertificate implements [web.Trust].
func (f *Fake) RevokeCertificate(ctx context.Context, by access.Actor, serial string, r adminapi.RevokeRequest) (adminapi.Revocation, error) {
	c, err := f.Certificate(ctx, by.Scope(), serial)
	if err != nil {
		return adminapi.Revocation{}, err
	}
	return adminapi.Revocation{Serial: c.Serial, Authority: c.Authority, Holder: c.Holder, Reason: r.Reason, RevokedAt: f.Now(), RevokedBy: by.String()}, f.did(by, "revoke certificate %s", serial)
}

// RevokeDevice implements [web.Trust].
func (f *Fake) RevokeDevice(ctx context.Context, by access.Actor, holder string, r adminapi.DeviceRevokeRequest) (adminapi.DeviceRevocation, error) {
	d, err := f.Device(ctx, by.Scope(), holder)
	if err != nil {
		return adminapi.DeviceRevocation{}, err
	}
	return adminapi.DeviceRevocation{Device: d.Holder, Revoked: []adminapi.Revocation{}}, f.did(by, "revoke device %s", holder)
}

// Lists implements [web.Trust].
func (f *Fake) Lists(_ context.Context, s access.Scope) ([]adminapi.List, error) {
	out, _, err := cut(s, f.List_, web.Page{Limit: 1000})
	return out, err
}

// PutRootList implements [web.Trust].
func (f *Fake) PutRootList(_ context.Context, by access.Actor, authority string, _ adminapi.RootListRequest) (adminapi.List, error) {
	if err := f.did(by, "put list %s", authority); err != nil {
		return adminapi.List{}, err
	}
	return pick(by.Scope(), f.List_, func(l *adminapi.List) bool { return l.Authority == authority })
}

// PublishLists implements [web.Trust].
func (f *Fake) PublishLists(ctx context.Context, by access.Actor, authority string) ([]adminapi.List, error) {
	l, err := pick(by.Scope(), f.List_, func(l *adminapi.List) bool { return l.Authority == authority })
	if err != nil {
		return nil, err
	}
	return []adminapi.List{l}, f.did(by, "publish lists of %s", authority)
}

// ListDestinations implements [web.Trust].
func (f *Fake) ListDestinations(context.Context) ([]adminapi.ListDestination, error) {
	return []adminapi.ListDestination{{Name: "https://lists.example.com/", Sent: 2, LastSuccess: f.Now()}, {Name: "/srv/lists", Pending: 1, Failed: 1, Fault: "disk full"}}, nil
}

// ListImports implements [web.Trust].
func (f *Fake) ListImports(context.Context) ([]adminapi.ListImport, error) {
	return []adminapi.ListImport{{Name: "maker", Number: "7", Entries: 3, NextUpdate: f.Now(), FetchedAt: f.Now(), Current: true}}, nil
}

// Authorities implements [web.Authorities].
func (f *Fake) Authorities(_ context.Context, s access.Scope) ([]adminapi.Authority, error) {
	out, _, err := cut(s, f.Authority_, web.Page{Limit: 1000})
	return out, err
}

// Authority implements [web.Authorities].
func (f *Fake) Authority(_ context.Context, s access.Scope, name string) (adminapi.Authority, error) {
	return pick(s, f.Authority_, func(a *adminapi.Authority) bool { return a.Name == name })
}

// CreateAuthority implements [web.Authorities].
func (f *Fake) CreateAuthority(_ context.Context, by access.Actor, r adminapi.AuthorityRequest) (adminapi.Authority, error) {
	f.Calls = append(f.Calls, "create authority "+r.Name)
	return adminapi.Authority{Name: r.Name, Duty: r.Duty, State: "pending", KeyUri: r.KeyUri, Shards: 1, CreatedAt: f.Now()}, nil
}

// InstallAuthority implements [web.Authorities].
func (f *Fake) InstallAuthority(ctx context.Context, by access.Actor, name string, _ adminapi.InstallRequest) (adminapi.Authority, error) {
	if err := f.did(by, "install %s", name); err != nil {
		return adminapi.Authority{}, err
	}
	return f.Authority(ctx, by.Scope(), name)
}

// AuthorityRollover implements [web.Authorities].
func (f *Fake) AuthorityRollover(ctx context.Context, s access.Scope, name, successor string) (adminapi.Rollover, error) {
	a, err := f.Authority(ctx, s, name)
	if err != nil {
		return adminapi.Rollover{}, err
	}
	return adminapi.Rollover{Authority: a.Name, Successor: successor, State: a.State, Checks: []adminapi.RolloverCheck{{Name: "installed", State: "failing", Detail: successor + " has no certificate yet.", Next: "hallmark ca csr"}},
		Steps: []adminapi.RolloverStep{{Step: "start", What: "It takes over.", When: "when a second person approves", Command: "hallmark ca rollover start " + name + " " + successor}}}, nil
}

// Servings implements [web.Authorities].
func (f *Fake) Servings(context.Context, access.Scope) ([]adminapi.Serving, error) {
	return []adminapi.Serving{{Name: "device", Serves: "device", Authorities: []string{"device-1"}, Issues: "device-1"}}, nil
}

// CreateRoot implements [web.Authorities].
func (f *Fake) CreateRoot(_ context.Context, by access.Actor, r adminapi.RootRequest) (adminapi.Authority, error) {
	f.Calls = append(f.Calls, "create root "+r.Name)
	return adminapi.Authority{Name: r.Name, Duty: "root", State: "active", Shards: 1, CreatedAt: f.Now()}, nil
}

// AddCross implements [web.Authorities].
func (f *Fake) AddCross(_ context.Context, by access.Actor, r adminapi.CrossRequest) (adminapi.Cross, error) {
	return adminapi.Cross{Name: r.Name, AddedAt: f.Now(), AddedBy: by.String()}, f.did(by, "add cross certificate %s", r.Name)
}

// Crosses implements [web.Authorities].
func (f *Fake) Crosses(context.Context, access.Scope) ([]adminapi.Cross, error) {
	return []adminapi.Cross{{Name: "new-by-old", Root: "root-1", Of: "root-2", AddedAt: f.Now()}}, nil
}

// Things implements [web.Registry].
func (f *Fake) Things(_ context.Context, s access.Scope, attribute, value string, p web.Page) ([]adminapi.Thing, string, error) {
	var in []adminapi.Thing
	for _, t := range f.Thing_ {
		if attribute == "" || strings.HasPrefix(t.Attributes[attribute], value) {
			in = append(in, t)
		}
	}
	return cut(s, in, p)
}

// Thing implements [web.Registry].
func (f *Fake) Thing(_ context.Context, s access.Scope, name string) (adminapi.Thing, error) {
	return pick(s, f.Thing_, func(t *adminapi.Thing) bool { return t.Name == name })
}

// Templates implements [web.Registry].
func (f *Fake) Templates(context.Context, access.Scope) ([]adminapi.Template, error) { return nil, nil }

// Template implements [web.Registry].
func (f *Fake) Template(_ context.Context, s access.Scope, name string) (adminapi.Template, error) {
	if name != "lamp" {
		return adminapi.Template{}, errUnknown.New("")
	}
	return adminapi.Template{Name: name, Kind: "first-boot", Body: "{}", UpdatedAt: f.Now()}, known(s)
}

// PutTemplate implements [web.Registry].
func (f *Fake) PutTemplate(_ context.Context, by access.Actor, name string, r adminapi.TemplateRequest) (adminapi.Template, error) {
	f.Calls = append(f.Calls, "put template "+name)
	return adminapi.Template{Name: name, Kind: "first-boot", Body: r.Body, UpdatedAt: f.Now()}, nil
}

// Hooks implements [web.Registry].
func (f *Fake) Hooks(context.Context, access.Scope) ([]adminapi.Hook, error) { return nil, nil }

// PutHook implements [web.Registry].
func (f *Fake) PutHook(_ context.Context, by access.Actor, name string, r adminapi.HookRequest) (adminapi.Hook, error) {
	f.Calls = append(f.Calls, "put hook "+name)
	return adminapi.Hook{Name: name, Url: r.Url, Allow: []string{}, UpdatedAt: f.Now()}, nil
}

// Registrations implements [web.Registry].
func (f *Fake) Registrations(context.Context, access.Scope) ([]adminapi.RegistrationRule, error) {
	return nil, nil
}

// PutRegistration implements [web.Registry].
func (f *Fake) PutRegistration(ctx context.Context, by access.Actor, authority string, r adminapi.RegistrationRequest) (adminapi.RegistrationRule, error) {
	if _, err := f.Authority(ctx, by.Scope(), authority); err != nil {
		return adminapi.RegistrationRule{}, err
	}
	return adminapi.RegistrationRule{Authority: authority, Template: r.Template, Enabled: r.Enabled, UpdatedAt: f.Now()}, f.did(by, "put registration %s", authority)
}

// LogState implements [web.Log].
func (f *Fake) LogState(context.Context, access.Scope) (adminapi.LogState, error) {
	return adminapi.LogState{Size: 1244, Root: make([]byte, 32), Checkpoint: "log.example\n1244\n"}, nil
}

// Proof implements [web.Log].
func (f *Fake) Proof(ctx context.Context, s access.Scope, serial string) (adminapi.LogProof, error) {
	c, err := f.Certificate(ctx, s, serial)
	return adminapi.LogProof{Serial: c.Serial, Index: c.Leaf, Size: 1244, Leaf: make([]byte, 32), Hashes: [][]byte{}, Checkpoint: "log.example\n1244\n"}, err
}

// Leaves implements [web.Log].
func (f *Fake) Leaves(context.Context, access.Scope, int64, int) ([]adminapi.LogLeaf, error) {
	return []adminapi.LogLeaf{{Index: 0, Entry: make([]byte, 32)}}, nil
}

// OrderLeaves implements [web.Log].
func (f *Fake) OrderLeaves(ctx context.Context, s access.Scope, order string, _ web.Page) ([]adminapi.LogLeaf, string, error) {
	if _, err := f.Order(ctx, s, order); err != nil {
		return nil, "", err
	}
	return []adminapi.LogLeaf{{Index: 0, Entry: make([]byte, 32), Account: order}}, "", nil
}

// OrderReport implements [web.Log].
func (f *Fake) OrderReport(ctx context.Context, s access.Scope, order string) (adminapi.Envelope, error) {
	_, err := f.Order(ctx, s, order)
	return adminapi.Envelope{PayloadType: "application/json", Payload: []byte("{}"), Signatures: []adminapi.EnvelopeSignature{{Keyid: "00", Sig: []byte{1}}}}, err
}

// Receipt implements [web.Log].
func (f *Fake) Receipt(ctx context.Context, s access.Scope, serial string, _ int64) (adminapi.LogReceipt, error) {
	c, err := f.Certificate(ctx, s, serial)
	return adminapi.LogReceipt{Leaf: adminapi.LogReceiptLeaf{Index: c.Leaf, Type: "issue", Entry: make([]byte, 32), Salt: make([]byte, 16), Subject: make([]byte, 32)}, Checkpoint: "log.example\n1244\n"}, err
}

// Summary implements [web.Health].
func (f *Fake) Summary(_ context.Context, s access.Scope) (adminapi.Summary, error) {
	if f.Panic {
		panic("a bug")
	}
	if s.Tenant != Tenant || f.Summary_.Status == "" {
		return adminapi.Summary{Status: "ok", Checks: []adminapi.HealthCheck{}}, nil
	}
	return f.Summary_, nil
}

// Serial is the fixture's serial number of that index.
func Serial(i int) string {
	sum := sha256.Sum256([]byte(strconv.Itoa(i)))
	return "400050ea" + hex.EncodeToString(sum[:16])
}

func certificate(t testing.TB, cn string, ca bool, notAfter time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(0x4000), Subject: pkix.Name{CommonName: cn, Organization: []string{"Example Lighting"}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: ca,
		CRLDistributionPoints: []string{"http://pki.example.com/crl/devices-1/0.crl"}, OCSPServer: []string{"http://pki.example.com/ocsp/devices-1"}, DNSNames: []string{"lmp-000001.po-2026-117.devices.example.com"},
	}
	if ca {
		tmpl.KeyUsage, tmpl.ExtKeyUsage, tmpl.DNSNames = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil, nil
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Fill puts a factory in the middle of its work into the fake.
func (f *Fake) Fill(t testing.TB) {
	now := f.Now().UTC().Truncate(time.Second)
	day := 24 * time.Hour
	never := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	order := func(id, product, state string, used, quantity int64, by string) adminapi.Order {
		return adminapi.Order{Id: id, Product: product, State: state, Used: used, Quantity: quantity, Installed: used * 97 / 100, Serials: "LMP-000001 to LMP-005000", Stations: []string{Station}, KeyOrigin: "claimed",
			NotBefore: now.Add(-3 * day), NotAfter: now.Add(20 * day), CreatedBy: by, CreatedAt: now.Add(-4 * day), Body: []byte("{}"), Approvals: []adminapi.Approval{}}
	}
	open := order(OpenOrder, "lamp-e27", "open", 1237, 5000, "wei")
	open.Approvals = []adminapi.Approval{{KeyId: strings.Repeat("ab", 32), Name: "anna"}}
	f.Order_ = []adminapi.Order{order("PO-2026-090", "lamp-gu10", "closed", 2000, 2000, "wei"), open, order(Draft, "lamp-e14", "draft", 0, 800, "wei"), order("PO-2026-119", "bridge", "approved", 0, 120, "wei"), order("PO-2026-120", "lock", "open", 498, 500, "li")}
	f.Blocks = map[string]string{Blocked: "sold on the grey market"}
	for i := 1; i <= 60; i++ {
		unit := fmt.Sprintf("LMP-%06d", i)
		issued := now.Add(-time.Duration(70-i) * 3 * time.Minute)
		u := adminapi.Unit{Unit: unit, State: "installed", Station: Station, Serial: Serial(i), InstalledAt: issued.Add(41 * time.Second), Proven: true}
		c := adminapi.Certificate{Serial: Serial(i), Authority: "devices-1", Holder: unit, Profile: "idevid", Status: "good", NotBefore: issued, NotAfter: never, IssuedAt: issued, Account: OpenOrder,
			Requester: "station:" + Station, Operator: "asserted:chen", Tool: "hallmark-station/1.0", Origin: "claimed", Shard: 0, Leaf: int64(1000 + i), Fingerprint: strings.Repeat("5e", 32), Subject: "CN=" + unit + ",O=Example Lighting", Issuer: "CN=Example Devices 1"}
		switch {
		case i == 1:
			c.Certificate = certificate(t, unit, false, now.Add(30*365*day))
		case unit == Blocked:
			u.State, c.Status = "revoked", "revoked"
			c.Revocation = adminapi.Revocation{Serial: c.Serial, Authority: c.Authority, Holder: unit, Reason: "privilegeWithdrawn", RevokedAt: now.Add(-2 * time.Hour), RevokedBy: "principal:anna", Note: f.Blocks[Blocked], Blocked: true}
			c.Certificate = certificate(t, unit, false, now.Add(30*365*day))
		case i > 57:
			u.State, u.Proven, u.InstalledAt = "issued", false, time.Time{}
		}
		f.Unit_ = append(f.Unit_, u)
		f.Certificate_ = append(f.Certificate_, c)
	}
	ldev := f.Certificate_[0]
	ldev.Profile, ldev.Slot, ldev.Serial, ldev.IssuedAt, ldev.NotAfter, ldev.Requester, ldev.Account = "ldevid", "A", Serial(101), now.Add(-time.Hour), now.Add(700*day), "device:"+Unit, ""
	hostile := f.Certificate_[0]
	hostile.Serial, hostile.Holder, hostile.Tool, hostile.Operator = Serial(102), "zz-hostile", Hostile, `asserted:"><img src=x>`
	f.Certificate_ = append([]adminapi.Certificate{ldev}, append(f.Certificate_, hostile)...)
	f.Station_ = []adminapi.Station{
		{Id: Station, Site: "shenzhen-2", State: "active", EnrolledAt: now.Add(-30 * day), Fingerprint: strings.Repeat("c4", 32)},
		{Id: "sz2-line-3", Site: "shenzhen-2", State: "revoked", EnrolledAt: now.Add(-90 * day), Fingerprint: strings.Repeat("19", 32)},
	}
	f.Thing_ = []adminapi.Thing{{Name: Unit, Holder: Unit, Type: "lamp", Attributes: map[string]string{"model": "LMP-E27", "site": "berlin"}, Groups: []string{"lamps", "eu"}, Policies: []string{"lamp-default"},
		Principals:   []adminapi.ThingPrincipal{{Authority: "devices-1", Serial: Serial(101), Status: "ACTIVE", AttachedAt: now.Add(-time.Hour)}},
		RegisteredBy: "devices-1", CreatedAt: now.Add(-time.Hour), UpdatedAt: now.Add(-time.Hour), Version: 1}}
	root := adminapi.Authority{Name: "example-root", Duty: "root", State: "active", BaseUrl: "http://pki.example.com", Shards: 1, CreatedAt: now.Add(-60 * day), Subject: "CN=Example Root R1,O=Example Lighting", Issuer: "example-root",
		Fingerprint: strings.Repeat("7a", 32), NotBefore: now.Add(-60 * day), NotAfter: never, Certificate: certificate(t, "Example Root R1", true, now.Add(9000*day))}
	issuing := func(name, duty, cn string, end time.Time) adminapi.Authority {
		return adminapi.Authority{Name: name, Duty: duty, State: "active", KeyUri: "pkcs11:token=issuing;object=" + name, BaseUrl: "http://pki.example.com", Shards: 1, CreatedAt: now.Add(-59 * day), Subject: "CN=" + cn + ",O=Example Lighting",
			Issuer: "example-root", Fingerprint: strings.Repeat("3d", 32), NotBefore: now.Add(-59 * day), NotAfter: end, Certificate: certificate(t, cn, true, now.Add(3000*day))}
	}
	f.Authority_ = []adminapi.Authority{issuing("devices-1", "device", "Example Devices 1", never), root, issuing("infra-1", "infrastructure", "Example Infrastructure 1", now.Add(70*day)),
		{Name: "devices-2", Duty: "device", State: "pending", KeyUri: "pkcs11:token=issuing;object=devices-2", BaseUrl: "http://pki.example.com", Shards: 4, CreatedAt: now, Csr: "-----BEGIN CERTIFICATE REQUEST-----\n"}}
	list := func(a string, n, entries, size int64, due time.Duration) adminapi.List {
		return adminapi.List{Authority: a, Number: n, Entries: entries, Size: size, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(due), Url: "http://pki.example.com/crl/" + a + "/0.crl", Covers: 1240}
	}
	f.List_ = []adminapi.List{list("devices-1", 41, 3, 612, 7*day), list("example-root", 2, 0, 388, 190*day), list("infra-1", 39, 1, 540, -time.Minute)}
	f.Summary_ = adminapi.Summary{Status: "failing", OrdersOpen: 2, UnitsOrdered: 5500, UnitsUsed: 1735, Certificates: 12894, Revoked: 4, Things: 1, Stations: 1, LogSize: 12906, Checks: []adminapi.HealthCheck{
		{Name: "authority devices-1", Status: "ok"}, {Name: "authority infra-1", Status: "warning", Detail: "Its certificate ends on " + now.Add(70*day).Format(time.DateOnly) + ".", Next: "Plan the ceremony for its successor now."},
		{Name: "list devices-1/0", Status: "ok"}, {Name: "list infra-1/0", Status: "failing", Detail: "It is out of date, so careful devices trust nobody.", Next: "Check the key of the authority."}, {Name: "database", Status: "ok"}, {Name: "token issuing", Status: "ok"}}}
}

// BackupState implements [web.Backup].
func (f *Fake) BackupState(context.Context) (adminapi.BackupState, error) {
	return adminapi.BackupState{}, nil
}

// MakeBackup implements [web.Backup].
func (f *Fake) MakeBackup(_ context.Context, by access.Actor) (adminapi.BackupState, error) {
	return adminapi.BackupState{}, f.did(by, "make a backup")
}
