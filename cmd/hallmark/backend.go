package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/acme"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/fleet/shadow"
	"hallmark/fleet/trust"
	"hallmark/hsm"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/store"
	"hallmark/web"
)

// The faults of the administration API that no domain package knows.
var (
	errNoRoot    = fault.Define(fault.Conflict, "station-code-no-root", "There is no root yet that a station could trust.", "Store the root with hallmark ca root, install an infrastructure authority, then make the code again.")
	errSharedKey = fault.Define(fault.Conflict, "authority-key-shared", "The key belongs to another authority already.", "Name another object in the token; every authority has a key of its own.")
)

// backend answers the administration API and the console: it translates between
// the words of the contract and the domain packages, which decide. The server
// fills the first fields, web completes the rest.
type backend struct {
	cfg     *Config
	db      *store.DB
	access  *access.Authenticator // says how break-glass stands; nil in tests without a door
	ca      *ca.CA
	keys    *hsm.Keyring
	prov    *provisioner.Provisioner
	crl     *crl.Service
	blast   *crl.Blast
	lists   *crl.Publisher
	sender  *crl.Sender  // nil: no other places
	filters *crl.Filters // nil: none are made
	imports *crl.Imports
	set     *crl.Set
	reg     *registry.Registry
	tlog    *tlog.Log
	logs    *logKeeper // nil in tests without a service
	saves   *backupJob // likewise

	jobs      *jobs.Service
	campaigns *campaign.Service
	ota       *ota.Service
	rotation  *rotation.Service
	trust     *trust.Service
	ownership *ownership.Service
	shadows   *shadow.Service
	claims    *bootstrap.Claims
	enrol     *bootstrap.Enroller // makes one-time passwords
	acme      *acme.Server        // nil where it is off

	expiry  *expiryWatch // nil in tests without doors
	exposed *exposure    // likewise

	certs *certifier // of the doors and the OCSP responders; nil in tests without doors
	now   func() time.Time
	log   *slog.Logger
	// stationRoot is the root that a station of a tenant knows the doors by.
	stationRoot func(ctx context.Context, tenant string) (*x509.Certificate, error)
	// reloaded is called after an authority was installed, so that it gets its
	// lists and the doors their certificates.
	reloaded func(ctx context.Context) error
	// follow takes over what a plan changed of authorities; nil in tests.
	follow func(ctx context.Context) error

	declared  *declare.Planner     // plans documents, and asks second persons
	planner   *provisioner.Planner // checks templates, hooks and registrations; it calls no hook
	approvers []approver

	change sync.Mutex // one change of authorities or hooks at a time: they are read, judged and written

	mu       sync.Mutex
	counts   map[string]keptCounts // by tenant
	tokens   []hsm.TokenHealth
	tokensAt time.Time
}

// web gives the backend to the people's door. It is called once.
func (b *backend) web() web.Backend {
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.counts = map[string]keptCounts{}
	b.planner = provisioner.NewPlanner(provisioner.PlannerConfig{Store: b.db, Log: b.log, Now: b.now})
	b.approvers = b.pinned()
	return web.Backend{Orders: b, Stations: b, Enrolment: enrolAPI{b}, Certificates: b, Trust: b, Authorities: b, Registry: b, Things: b, ThingTypes: b, Groups: b, Policies: b.policies(), Registration: b.registration(), Jobs: b, Campaigns: b, Rotation: b, Firmware: b, Bundles: b, Ownership: b, Shadows: b, Plans: b.plans(), Revocations: revocationAPI{b}, Log: b, Backup: b, Trail: b, Health: b}
}

// ceremony prepares a step with the key of an issuing authority.
func (b *backend) ceremony() (*ceremony.Ceremony, error) {
	return ceremony.New(ceremony.Config{Keys: b.keys, Development: !b.cfg.Production, Log: b.log, Now: b.now})
}

// batch is how many rows one read of a filtered list takes.
const batch = 1000

// maxScan bounds the rows that one page of a filtered list looks at, so that a
// rare status does not read the whole table in one request.
const maxScan = 10 * batch

// collect reads one page. It looks for one item more than the page holds, so
// that the last page knows that it is the last. keep is nil where every row
// counts.
func collect[T any](after string, limit int, fetch func(after string, n int) ([]T, error), position func(*T) string, keep func(*T) bool) (items []T, next string, err error) {
	n := min(limit+1, batch)
	if keep != nil {
		n = batch
	}
	for seen := 0; ; {
		rows, err := fetch(after, n)
		if err != nil {
			return nil, "", err
		}
		for i := range rows {
			if keep == nil || keep(&rows[i]) {
				if len(items) == limit {
					return items, after, nil
				}
				items = append(items, rows[i])
			}
			after = position(&rows[i])
		}
		if len(rows) < n {
			return items, "", nil
		}
		if seen += len(rows); keep != nil && seen >= maxScan {
			return items, after, nil
		}
	}
}

// readAll reads all pages.
func readAll[T any](fetch func(after string, n int) ([]T, error), position func(*T) string) (items []T, err error) {
	for after := ""; ; {
		rows, err := fetch(after, batch)
		if err != nil {
			return nil, err
		}
		items = append(items, rows...)
		if len(rows) < batch {
			return items, nil
		}
		after = position(&rows[len(rows)-1])
	}
}

// mapped translates a page.
func mapped[T, V any](in []T, view func(*T) V) []V {
	out := make([]V, len(in))
	for i := range in {
		out[i] = view(&in[i])
	}
	return out
}

func pemText(kind string, der []byte) string {
	if len(der) == 0 {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// serialText is empty for a serial number that was not drawn.
func serialText(s ca.Serial) string {
	if s == (ca.Serial{}) {
		return ""
	}
	return s.String()
}

// seconds reads the times of orders; 0 is an open end.
func seconds(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// nonNil makes an absent list [] and not null.
func nonNil[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// ours refuses an authority of another tenant as if it were not there.
func (b *backend) ours(s access.Scope, name string) (ca.Info, error) {
	a, err := b.ca.Authority(name)
	if err == nil && a.Tenant != s.Tenant {
		err = ca.ErrAuthorityUnknown.New("%s.", name)
	}
	return a, err
}
