package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/bootstrap/est"
	"hallmark/ca"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/provisioner"
	"hallmark/station/uplink/server"
	"hallmark/web"
)

// newLogger writes one JSON object a line.
func newLogger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
}

// stationDoor knows which certificates are stations. A certificate's record
// never changes, so it is kept; revocation is asked every time (S19).
type stationDoor struct {
	s     *Server
	mu    sync.RWMutex
	known map[[32]byte]access.Actor
}

// maxKnown bounds the stations remembered; a factory has tens.
const maxKnown = 10_000

// identify finds the station of a connection (S18): chain, database record,
// profile and revocation, never the subject's text.
func (d *stationDoor) identify(ctx context.Context, state *tls.ConnectionState) (access.Actor, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return access.Actor{}, provisioner.ErrNotStation.New("")
	}
	cert := state.PeerCertificates[0]
	fp := sha256.Sum256(cert.Raw)
	d.mu.RLock()
	actor, ok := d.known[fp]
	d.mu.RUnlock()
	if !ok {
		serial, ours := ca.SerialFromInt(cert.SerialNumber)
		authority := d.s.issuerOf(cert.AuthorityKeyId)
		if !ours || authority == nil {
			return access.Actor{}, provisioner.ErrNotStation.New("")
		}
		var err error
		if actor, err = d.s.prov.StationOf(ctx, authority.Name, serial, cert.Raw, authority.Tenant); err != nil {
			return access.Actor{}, err
		}
		d.mu.Lock()
		if len(d.known) >= maxKnown {
			clear(d.known)
		}
		d.known[fp] = actor
		d.mu.Unlock()
	}
	if _, _, revoked := d.s.set.Revoked(actor.Authority, ca.Serial(actor.Serial)); revoked {
		return access.Actor{}, ca.ErrRequesterRevoked.New("Station %s.", actor.Name)
	}
	if !d.s.now().Before(cert.NotAfter) {
		return access.Actor{}, provisioner.ErrNotStation.New("The certificate ended at %s.", cert.NotAfter.Format(time.RFC3339))
	}
	return actor, nil
}

// issuerOf finds an authority by its key identifier.
func (s *Server) issuerOf(keyID []byte) *ca.Info {
	for _, a := range s.ca.Authorities() {
		if string(a.Cert.SubjectKeyId) == string(keyID) && a.KeyURI != "" {
			return &a
		}
	}
	return nil
}

// factoryTLS requires and verifies a certificate of the infrastructure
// authorities. The configuration is made anew only when those change, so that
// session tickets keep working; a resumed session is checked like a new one.
func (s *Server) factoryTLS() *tls.Config {
	door := s.stations()
	var mu sync.Mutex
	var made *tls.Config
	var from *doorCertificate
	outer := s.baseTLS()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		d := s.tls.Load()
		if !d.ready {
			return nil, errNoInfra.New("")
		}
		mu.Lock()
		defer mu.Unlock()
		if from != d {
			c := s.baseTLS()
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, d.infra
			c.NextProtos = []string{"http/1.1"}
			c.VerifyConnection = func(st tls.ConnectionState) error {
				_, err := door.identify(context.Background(), &st)
				return err
			}
			made, from = c, d
		}
		return made, nil
	}
	return outer
}

func (s *Server) stations() *stationDoor {
	s.stationOnce.Do(func() { s.stationDoor = &stationDoor{s: s, known: map[[32]byte]access.Actor{}} })
	return s.stationDoor
}

// factory routes the station protocol. Every request is identified anew: a
// station that was revoked on an open connection is refused at its next request.
func (s *Server) factory(srv *server.Server) http.Handler {
	mux := http.NewServeMux()
	door := s.stations()
	handle := func(pattern string, h func(w http.ResponseWriter, r *http.Request, st access.Actor) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			defer s.line.Enter()()
			// Stations hold their clocks against the one that dates their certificates.
			w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
			actor, err := door.identify(r.Context(), r.TLS)
			if err == nil {
				web.SetActor(r.Context(), actor.String())
				err = h(w, r.WithContext(lane.With(access.WithActor(r.Context(), actor), lane.Line)), actor)
			}
			if err != nil {
				web.Fail(w, r, err)
			}
		})
	}
	handle("GET /factory/v1/orders/{order}", func(w http.ResponseWriter, r *http.Request, st access.Actor) error {
		o, err := srv.Order(r.Context(), st, r.PathValue("order"))
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(o)
	})
	handle("POST /factory/v1/orders/{order}/issue", func(w http.ResponseWriter, r *http.Request, st access.Actor) error {
		return srv.Simple(w, r, st, r.PathValue("order"))
	})
	handle("POST /factory/v1/units/issue", srv.Issue)
	handle("POST /factory/v1/units/commit", srv.Commit)
	handle("POST /factory/v1/receipts", srv.FetchReceipts)
	handle("POST /factory/v1/station/renew", srv.Renew)
	return web.Refusing(mux)
}

// enrol routes enrolment without a certificate; wrong codes are slowed per address.
func (s *Server) enrol(srv *server.Server) http.Handler {
	mux := http.NewServeMux()
	limit := newAttempts(10, time.Minute, s.now)
	strangers := access.NewStrangers(s.db, s.log, s.now)
	mux.HandleFunc("POST /enrol/v1/station", func(w http.ResponseWriter, r *http.Request) {
		from := web.RemoteAddr(r).String()
		if wait := limit.blocked(from); wait > 0 {
			web.Fail(w, r, errAttempts.New("").After(wait))
			return
		}
		// The trail says who redeemed a code (A75), in the transaction that redeems it.
		ctx, trail := access.WithRecord(r.Context(), access.TrailEntry{Tenant: access.DefaultTenant, Actor: "unknown:", Action: access.RedeemStationCode, Request: web.RequestID(r.Context()), From: from, Outcome: access.TrailDone})
		err := srv.Enrol(w, r.WithContext(ctx))
		if err != nil {
			limit.failed(from)
			if e := trail.Entry(); !trail.Written() {
				e.Code = fault.From(err).Code
				strangers.Refused(r.Context(), e)
			}
			web.Fail(w, r, err)
		}
	})
	s.mountEST(mux, est.Passwords)
	s.mountACME(mux)
	return web.Refusing(mux)
}

// attempts limits failures per address in a sliding window (S14).
type attempts struct {
	max    int
	window time.Duration
	now    func() time.Time
	mu     sync.Mutex
	byAddr map[string][]time.Time
}

func newAttempts(max int, window time.Duration, now func() time.Time) *attempts {
	return &attempts{max: max, window: window, now: now, byAddr: map[string][]time.Time{}}
}

func (a *attempts) blocked(addr string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	times := a.byAddr[addr]
	if len(times) < a.max {
		return 0
	}
	return max(0, a.window-a.now().Sub(times[len(times)-a.max]))
}

func (a *attempts) failed(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.byAddr) > 10_000 { // an attacker with many addresses gets no memory
		clear(a.byAddr)
	}
	times := append(a.byAddr[addr], a.now())
	if len(times) > a.max {
		times = times[len(times)-a.max:]
	}
	a.byAddr[addr] = times
}
