package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/fleet/trust"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/internal/seal"
	"hallmark/provisioner"
	"hallmark/station/uplink"
	"hallmark/station/uplink/server"
	"hallmark/store"
	"hallmark/web"
)

var errAttempts = fault.Define(fault.Exhausted, "enrol-attempts", "Too many refused attempts came from this address.", "Wait, check the code, and ask for a new one if it was used.")

var errNoInfra = fault.Define(fault.Unavailable, "no-infrastructure-authority", "No infrastructure authority is installed, so this door has no certificate yet.", "Install one: hallmark ca csr, hallmark ceremony sign, hallmark ca install.")

// Server is the whole service. End-to-end tests construct the same one.
type Server struct {
	cfg *Config
	log *slog.Logger
	now func() time.Time
	reg *prometheus.Registry

	box       *seal.Box
	db        *store.DB
	keys      *hsm.Keyring
	ca        *ca.CA
	tlog      *tlog.Log
	logs      *logKeeper
	set       *crl.Set
	crl       *crl.Service
	blast     *crl.Blast
	lists     *crl.Publisher
	ocsp      *crl.OCSP
	sender    *crl.Sender  // nil: no other places
	filters   *crl.Filters // nil: none are made
	imports   *crl.Imports
	news      *importNews
	prov      *provisioner.Provisioner
	reged     *registry.Registry
	boot      *bootstrap.Service
	rotation  *rotation.Service
	trust     *trust.Service
	counts    fleetCounts
	ownership *ownership.Service
	enrolment enrolment
	gate      *bootstrap.Gate
	planner   *provisioner.Planner
	fleet     *fleetRuntime
	still     *stillConnected
	certs     *certifier
	expiry    *expiryWatch
	exposed   *exposure
	watched   authorityWatch
	line      lane.Activity // of the factory door
	time      *timeSource   // nil: no time servers
	backup    *backupJob
	first     *serviceCert // until an infrastructure authority is there

	tls        atomic.Pointer[doorCertificate]
	lintErrors atomic.Int64
	keeping    sync.Mutex // held while the newest checkpoint goes to disk
	kept       []byte     // the newest checkpoint that is on disk
	settled    int64      // reservations up to this id have a certificate or are void
	returned   int64      // revocations up to this leaf gave their unit back, or have none to give

	stationOnce sync.Once
	stationDoor *stationDoor

	doors map[string]*door
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// doorCertificate is what the TLS doors show, and whom the factory door trusts.
type doorCertificate struct {
	cert     *tls.Certificate // leaf and issuing CA
	withRoot *tls.Certificate // for enrolment, where the root is proven by its hash
	infra    *x509.CertPool   // authorities that certify stations
	device   *x509.CertPool
	ready    bool
}

// door is one listener.
type door struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// keysAdapter gives the keyring's keys to package ca.
type keysAdapter struct {
	*hsm.Keyring
	development bool
	exposed     func(uri string) bool // allowed all the same; nil: none
}

// Key opens a CA key, in every token that holds it, and refuses one that could
// leave its token (A22, S6).
func (k keysAdapter) Key(ctx context.Context, uri string) (ca.Key, error) {
	return k.CAKey(ctx, uri, k.development || k.exposed != nil && k.exposed(uri))
}

// serverOptions are what tests and the demo set and no configuration does.
type serverOptions struct {
	Now         func() time.Time
	Log         *slog.Logger
	AcceptClock bool // somebody looked at the clock after a jump
}

// newServer opens everything that a service needs, and listens nowhere yet. It
// fails closed: without its seal key, its database or the state of revocation
// there is no service.
func newServer(ctx context.Context, cfg *Config, opt serverOptions) (s *Server, err error) {
	s = &Server{cfg: cfg, log: opt.Log, now: opt.Now, reg: prometheus.NewRegistry(), doors: map[string]*door{}, returned: -1}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = cancel
	made := s // what is returned with an error is nil
	defer func() {
		if err != nil {
			made.Close()
		}
	}()
	s.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return nil, err
	}
	if s.box, err = openSeal(cfg); err != nil {
		return nil, err
	}
	s.time = newTimeSource(cfg, s.now, s.log)
	if s.time != nil {
		s.time.ask(ctx)
	}
	if s.db, err = store.Open(ctx, store.Config{URL: cfg.Database, Seal: s.box, AcceptClock: opt.AcceptClock, SecondClock: s.time.Check, Log: s.log, Now: s.now}); err != nil {
		return nil, err
	}
	if err := checkRestored(ctx, s.db); err != nil {
		return nil, err
	}
	if err := s.db.CheckClock(); err != nil {
		s.log.ErrorContext(ctx, "the clock looks wrong; nothing is issued until it is right or accepted", "error", err)
	}
	groups, err := cfg.groups()
	if err != nil {
		return nil, err
	}
	s.keys = hsm.Open(hsm.Config{Log: s.log, Sessions: cfg.Tokens.Sessions, Production: cfg.Production, Metrics: s.reg, Groups: groups, Direct: cfg.Tokens.Direct, Environment: cfg.Tokens.Environment})
	if err := s.checkProduction(ctx); err != nil {
		return nil, err
	}
	if s.ca, err = ca.New(ctx, ca.Config{Ledger: s.db.Ledger(), Keys: keysAdapter{s.keys, !cfg.Production, cfg.exposedAllowed}, Store: s.db, PolicyArc: cfg.PolicyArc, Log: s.log, Now: s.now}); err != nil {
		return nil, err
	}
	v := vault{dir: filepath.Join(cfg.State, "keys"), box: s.box}
	logKey, err := openLogKey(ctx, cfg, s.keys, v)
	if err != nil {
		return nil, err
	}
	if s.tlog, err = tlog.New(tlog.Config{Store: s.db.Log(), Origin: cfg.Log.Origin, Key: logKey, More: s.trailLine, Now: s.now, Log: s.log}); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(logVerifierFile(cfg), []byte(s.tlog.VerifierKey()+"\n"), 0o644); err != nil {
		return nil, err
	}
	if s.logs, err = newLogKeeper(cfg, s.tlog, logKey, s.now, s.log); err != nil {
		return nil, err
	}
	s.logs.trail = func(ctx context.Context, note []byte) error { return checkTrailAgainst(ctx, s.db, note) }
	if err := s.logs.check(ctx); err != nil {
		return nil, err
	}

	// Trust taken away is known before any door opens (A28).
	s.set = crl.NewSet(crl.SetConfig{Feed: s.db, Log: s.log, Now: s.now})
	if err := s.set.Load(ctx); err != nil {
		return nil, err
	}
	s.crl = crl.New(crl.Config{Store: s.db, Log: s.log, Now: s.now})
	s.blast = crl.NewBlast(crl.BlastConfig{Store: s.db, Service: s.crl, Rotator: s.planRotator(), Yield: s.line.Busy, Log: s.log, Now: s.now})
	if err := s.openLists(); err != nil {
		return nil, err
	}
	if err := s.lists.Start(ctx); err != nil {
		return nil, err
	}
	if err := s.distrustRevoked(ctx); err != nil {
		return nil, err
	}
	s.certs = &certifier{ca: s.ca, db: s.db, vault: v, now: s.now, have: map[string]*serviceCert{}}
	s.ocsp = crl.NewOCSP(crl.OCSPConfig{Store: s.db, CA: s.ca, Set: s.set, Responder: s.responder, Newest: s.db.NewestSerials, Log: s.log, Now: s.now})

	if err := s.openProvisioning(); err != nil {
		return nil, err
	}
	if err := s.renewDoors(ctx); err != nil {
		return nil, err
	}
	if err := s.openRuntime(ctx); err != nil {
		return nil, err
	}
	s.still = &stillConnected{connected: s.fleet.broker.Connected, revoked: s.set.Revoked, imported: s.imports.Check, drop: s.fleet.broker.Drop}
	s.news = newImportNews()
	s.imports.OnRevoked(s.news.note)
	s.backup = &backupJob{cfg: cfg, db: s.db, box: s.box, logKey: s.tlog.VerifierKey(), busy: s.line.Busy, now: s.now, log: s.log, life: run, wg: &s.wg}
	s.metrics()
	s.background(run)
	return s, nil
}

// openSeal loads the key that protects rows and secrets, or makes it for a
// state directory that has no database yet. A database without its key is never
// opened with a new one.
func openSeal(cfg *Config) (*seal.Box, error) {
	name := filepath.Join(cfg.State, "seal.key")
	b, err := seal.Load(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if _, statErr := os.Stat(cfg.Database); statErr == nil {
		return nil, fmt.Errorf("the database %s is there but its key %s is not: restore the key", cfg.Database, name)
	}
	return seal.Create(name)
}

// clockNotAhead keeps lists of a time that is not yet from being signed (A74). A
// clock that went back stops no list: the news of a revocation is worth more.
func (s *Server) clockNotAhead() error {
	if err := s.db.CheckClock(); errors.Is(err, store.ErrClockAhead) {
		return err
	}
	return nil
}

func (s *Server) checkpointFile() string { return filepath.Join(s.cfg.State, "checkpoint") }

func (s *Server) openProvisioning() error {
	approvers, err := s.cfg.approvers()
	if err != nil {
		return err
	}
	orders, err := provisioner.NewOrders(approvers, s.cfg.ApprovalsNeeded)
	if err != nil {
		return err
	}
	s.prov = provisioner.New(provisioner.Config{
		Orders: orders, Store: s.db, Units: s.db, Stations: s.db, Records: s.db, CA: s.ca, Roots: s.bundle, Domain: s.cfg.Domain, Log: s.log, Now: s.now,
		Nonce: func(serial ca.Serial) []byte { return s.box.MAC("commit-nonce", serial[:]) },
		VerifyCommit: func(pub crypto.PublicKey, nonce []byte, unit string, der, sig []byte) error {
			return uplink.VerifyCommit(pub, uplink.CommitMessage(nonce, unit, der), sig)
		},
	})
	return s.openBootstrap()
}

// responder gives the delegated OCSP key and certificate of an authority.
func (s *Server) responder(ctx context.Context, authority string) (crypto.Signer, *x509.Certificate, error) {
	a, err := s.ca.Authority(authority)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.certs.get(ctx, "ocsp-"+authority, responderRequest(a))
	if err != nil {
		return nil, nil, err
	}
	return c.key, c.leaf, nil
}

// renewDoors fetches the doors' certificate, renewed when it is half through,
// and the authorities they trust.
func (s *Server) renewDoors(ctx context.Context) error {
	d := &doorCertificate{infra: x509.NewCertPool(), device: x509.NewCertPool()}
	var roots [][]byte
	infra := false
	for _, a := range s.ca.Authorities() {
		switch a.Duty {
		case profile.DutyRoot:
			roots = append(roots, a.Cert.Raw)
		case profile.DutyInfrastructure:
			if a.State == ca.StateRevoked {
				continue
			}
			d.infra.AddCert(a.Cert)
			infra = infra || a.State == ca.StateActive
		case profile.DutyDevice:
			d.device.AddCert(a.Cert)
		}
	}
	if infra {
		c, err := s.certs.get(ctx, "doors", serverRequest(access.DefaultTenant, s.cfg.ServerNames))
		if err != nil {
			return err
		}
		d.cert, d.ready = c.tls(), true
		if chain, err := c.certificates(); err == nil && len(chain) > 1 {
			for _, cross := range s.ca.CrossesOf(chain[1]) { // who trusts only another root accepts it too
				d.cert.Certificate = append(d.cert.Certificate[:len(d.cert.Certificate):len(d.cert.Certificate)], cross.Raw)
			}
		}
		with := *d.cert
		with.Certificate = append(append([][]byte(nil), d.cert.Certificate...), roots...)
		d.withRoot = &with
	} else {
		if s.first == nil {
			var err error
			if s.first, err = firstCertificate(s.cfg.ServerNames, s.now()); err != nil {
				return err
			}
		}
		d.cert = s.first.tls()
	}
	s.tls.Store(d)
	// The OCSP responders have their certificates before anybody asks, so that
	// answers go on when nothing can be issued.
	for _, a := range s.ca.Authorities() {
		if a.Duty == profile.DutyRoot {
			continue
		}
		if _, _, err := s.responder(ctx, a.Name); err != nil {
			s.log.ErrorContext(ctx, "no OCSP responder", "authority", a.Name, "error", err)
		}
	}
	anchors := roots
	if !infra {
		anchors = s.first.chain
	}
	var text []byte
	for _, der := range anchors {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return durable.WriteFile(filepath.Join(s.cfg.State, "ca.pem"), text, 0o644)
}

// Start opens the doors.
func (s *Server) Start(ctx context.Context) error {
	metrics, err := web.NewMetrics(s.reg)
	if err != nil {
		return err
	}
	people, err := s.people(ctx, metrics)
	if err != nil {
		return err
	}
	edge := func(door string, h http.Handler) http.Handler {
		return web.Edge{Door: door, Log: s.log, Metrics: metrics, Now: s.now}.Wrap(h)
	}
	stations := &server.Server{P: s.prov, Receipts: s.receipts, FactoryURL: func() string { return "https://" + s.publicAddr("factory") }}
	for _, d := range []struct {
		name, addr string
		tls        *tls.Config
		handler    http.Handler
	}{
		{"people", s.cfg.Listen.People, s.peopleTLS(), people},
		{"device", s.cfg.Listen.Device, s.httpsTLS(), s.deviceDoor(web.Edge{Door: "device", Log: s.log, Metrics: metrics, Now: s.now})},
		{"factory", s.cfg.Listen.Factory, s.factoryTLS(), edge("factory", s.factory(stations))},
		{"enrol", s.cfg.Listen.Enrol, s.enrolTLS(), edge("enrol", s.enrol(stations))},
		{"public", s.cfg.Listen.Public, nil, web.PublicHandler(web.PublicConfig{
			CRL: s.lists.Handler(), Certs: s.lists.Handler(), OCSP: s.ocsp, Messages: s.messages(), Log: http.StripPrefix("/log", s.tlog.HandlerOf(s.logs.note)),
			Ready: s.checks(), Logger: s.log, Metrics: metrics, Now: s.now,
		})},
		{"metrics", s.cfg.Listen.Metrics, nil, s.localHandler()},
	} {
		if err := s.listen(d.name, d.addr, d.tls, d.handler); err != nil {
			return err
		}
	}
	if err := s.serveMQTT(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return s.announce()
}

// watch lets tests see every request and answer at a door; nil in the program.
var watch func(door string, h http.Handler) http.Handler

func (s *Server) listen(name, addr string, conf *tls.Config, h http.Handler) error {
	if watch != nil {
		h = watch(name, h)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("the %s door cannot listen on %s: %w", name, addr, err)
	}
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(s.log.With("door", name).Handler(), slog.LevelDebug)}
	web.Guard(srv)
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	s.doors[name] = &door{name, l, srv}
	s.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("a door failed", "door", name, "error", err)
		}
	})
	return nil
}

// Addr is where a door listens, HOST:PORT.
func (s *Server) Addr(door string) string { return s.doors[door].listener.Addr().String() }

// publicAddr is Addr with a name that is in the certificate.
func (s *Server) publicAddr(door string) string {
	host, port, _ := net.SplitHostPort(s.Addr(door))
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = s.cfg.ServerNames[0]
	}
	return net.JoinHostPort(host, port)
}

// announce leaves addresses for the commands on this machine.
func (s *Server) announce() error {
	caFile, err := filepath.Abs(filepath.Join(s.cfg.State, "ca.pem")) // who reads it works elsewhere
	if err != nil {
		return err
	}
	e := endpointFile{People: "https://" + s.publicAddr("people"), Doors: map[string]string{}, CAFile: caFile, PID: os.Getpid()}
	// A door may listen on an address that the certificate does not have.
	if host, _, _ := net.SplitHostPort(s.publicAddr("people")); !slices.Contains(s.cfg.ServerNames, host) {
		e.Name = s.cfg.ServerNames[0]
	}
	for name := range s.doors {
		e.Doors[name] = s.publicAddr(name)
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(s.cfg.State, "endpoints.json"), b, 0o644)
}

func (s *Server) baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Time: s.now, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return s.tls.Load().cert, nil
	}}
}

func (s *Server) peopleTLS() *tls.Config {
	c := s.baseTLS()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

func (s *Server) enrolTLS() *tls.Config {
	c := s.baseTLS()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		d := s.tls.Load()
		if !d.ready {
			return nil, errNoInfra.New("")
		}
		return d.withRoot, nil
	}
	return c
}

// Close ends the service: no new connections, requests under way are answered,
// then everything is written.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var errs []error
	for _, d := range s.doors {
		if d.server == nil {
			errs = append(errs, d.listener.Close()) // the broker's
			continue
		}
		if err := d.server.Shutdown(ctx); err != nil {
			d.server.Close()
		}
	}
	if s.fleet != nil {
		errs = append(errs, s.fleet.broker.Close())
		s.fleet.fabric.Close()
	}
	s.stop()
	s.wg.Wait()
	if s.tlog != nil {
		s.checkpoint(ctx)
		s.logs.last(ctx)
	}
	if s.planner != nil {
		s.planner.Close()
	}
	if s.keys != nil {
		errs = append(errs, s.keys.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}

// tuneGC trades memory for time while the heap is small: collecting at four times
// the live size costs some tens of megabytes and saves a tenth of the CPU of an
// issuance. With thousands of connections Go's own pace is right. GOGC overrides it.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	now := 300
	debug.SetGCPercent(now)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	go func() {
		for every(ctx, 5*time.Second) {
			metrics.Read(live)
			want := 300
			if live[0].Value.Uint64() > 32<<20 {
				want = 100
			}
			if want != now {
				now = want
				debug.SetGCPercent(now)
			}
		}
	}()
}

func newServeCmd(g *globals) *cobra.Command {
	var file string
	var accept bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: cobra.NoArgs,
		Example: "  hallmark serve --config hallmark.yaml\n  hallmark serve --accept-clock   once, after the clock jumped and somebody compared it with another",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			tuneGC(cmd.Context())
			log := newLogger(g.Err, cfg.LogLevel)
			s, err := newServer(cmd.Context(), cfg, serverOptions{Log: log, Now: g.Now, AcceptClock: accept})
			if err != nil {
				return err
			}
			if err := s.Start(cmd.Context()); err != nil {
				s.Close()
				return err
			}
			attrs := []any{"pid", strconv.Itoa(os.Getpid()), "state", cfg.State, "production", cfg.Production}
			for name := range s.doors {
				attrs = append(attrs, name, s.Addr(name))
			}
			log.Info("hallmark serves", attrs...)
			<-cmd.Context().Done()
			log.Info("hallmark stops")
			return s.Close()
		},
	}
	cmd.Flags().StringVar(&file, "config", "hallmark.yaml", "configuration file")
	cmd.Flags().BoolVar(&accept, "accept-clock", false, "take the clock for right, whatever the database remembers; for one start")
	return cmd
}
