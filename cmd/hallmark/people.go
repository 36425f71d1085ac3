package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca/profile"
	"hallmark/fleet/registry"
	"hallmark/internal/durable"
	"hallmark/provisioner"
	"hallmark/web"
	"hallmark/web/console"
)

// openBootstrap makes the devices' door: the gate that knows certificates, the
// registry, the planner with templates and hooks, and first boot.
func (s *Server) openBootstrap() error {
	s.reged = registry.New(registry.Config{Store: s.db, Alone: s.db.Alone(), Now: s.now})
	s.planner = provisioner.NewPlanner(provisioner.PlannerConfig{Store: s.db, Log: s.log, Now: s.now})
	s.openOwnership()
	s.gate = bootstrap.NewGate(bootstrap.GateConfig{CA: s.ca, Records: s.db, Registry: s.reged, Revoked: s.set, Owners: s.ownership, Log: s.log, Now: s.now})
	s.openRotation()
	boot := bootstrap.Config{Withdrawer: s.crl, Renewed: s.renewed, Advise: s.rotation.Advise, Roots: s.bundle, Gate: s.gate, Issuer: s.ca, Planner: s.planner, Registry: s.reged, Records: s.db, Orders: s.prov, NonceKey: s.box.MAC("bootstrap-nonce"), Log: s.log, Now: s.now}
	if s.cfg.Privacy.Pseudonyms {
		boot.Pseudonym = bootstrap.Pseudonyms(s.box.MAC("subject-pseudonym"))
	}
	if d := &s.cfg.Fleet.DarkLane; d.Policy != "" {
		boot.Dark = &bootstrap.DarkLane{Store: s.db, Within: time.Duration(d.Within), PerDay: d.PerDay, Policy: d.Policy, Groups: d.Groups}
		for _, p := range d.Profiles {
			boot.Dark.Profiles = append(boot.Dark.Profiles, profile.Name(p))
		}
	}
	s.boot = bootstrap.New(boot)
	return s.openEnrolment()
}

// deviceTLS is the devices' door: any certificate is taken at the handshake and
// judged by the gate, so that a revoked or expired one gets an answer with a
// code (clarification 10).
func (s *Server) deviceTLS() *tls.Config {
	return bootstrap.TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		d := s.tls.Load()
		if !d.ready {
			return nil, errNoInfra.New("")
		}
		return d.cert, nil
	}, s.gate)
}

// bootTLS is deviceTLS for HTTPS, where a birth certificate is shown.
func (s *Server) bootTLS() *tls.Config {
	c := s.deviceTLS()
	if s.cfg.Privacy.TLS13 {
		c.MinVersion = tls.VersionTLS13
	}
	return c
}

// people makes the door of console and administration API. The first principal's
// token goes to a file that only the service's user reads.
func (s *Server) people(ctx context.Context, metrics *web.Metrics) (http.Handler, error) {
	// A token that ended does not come back with a clock that goes back (A74).
	glass, err := s.breakGlass()
	if err != nil {
		return nil, err
	}
	auth := access.NewAuthenticator(access.Config{Store: s.db, Trail: s.db, RequestID: web.RequestID, BreakGlass: glass, Log: s.log, Now: s.db.Steady})
	s.reg.MustRegister(&breakGlassMetrics{access: auth})
	file := filepath.Join(s.cfg.State, "admin.token")
	if _, err := auth.Bootstrap(ctx, func(_ string, t access.Token) error {
		return durable.WriteFile(file, []byte(t.Reveal()+"\n"), 0o600)
	}); err != nil {
		return nil, err
	}
	b := &backend{cfg: s.cfg, db: s.db, access: auth, ca: s.ca, keys: s.keys, prov: s.prov, crl: s.crl, blast: s.blast, lists: s.lists, sender: s.sender, filters: s.filters, imports: s.imports, set: s.set, reg: s.reged, tlog: s.tlog, logs: s.logs, saves: s.backup, certs: s.certs, expiry: s.expiry, exposed: s.exposed,
		now: s.now, log: s.log, stationRoot: s.stationRoot, reloaded: s.authoritiesChanged, follow: s.followAuthorities,
		jobs: s.fleet.jobs, campaigns: s.fleet.campaigns, ota: s.fleet.ota, rotation: s.rotation, trust: s.trust, ownership: s.ownership, shadows: s.fleet.shadows, claims: s.fleet.claims, enrol: s.enrolment.passwords, acme: s.enrolment.acme}
	parts := b.web()
	hsts := s.cfg.Production && !strings.Contains(s.cfg.Listen.People, "127.0.0.1")
	pages, err := console.New(console.Config{Backend: parts, Access: auth, Trail: s.db, Cursors: web.NewCursors(s.box), Version: version, Log: s.log, Now: s.now})
	if err != nil {
		return nil, err
	}
	return web.NewPeople(web.PeopleConfig{Backend: parts, Access: auth, Trail: s.db, Cursors: web.NewCursors(s.box), Console: pages, Log: s.log, Metrics: metrics, HSTS: hsts, Now: s.now})
}

// authoritiesChanged follows the installation of an authority: lists for it,
// certificates for the doors.
func (s *Server) authoritiesChanged(ctx context.Context) error {
	if err := s.lists.Sweep(ctx); err != nil {
		return err
	}
	return s.renewDoors(ctx)
}
