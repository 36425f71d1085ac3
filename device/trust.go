package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/fleet"
	"hallmark/internal/strictjson"
)

// trustDocument is a job that changes whom the device trusts and where it finds its
// service, or takes that back.
type trustDocument struct {
	Operation string   `json:"operation"`
	Version   int      `json:"version"`
	Campaign  string   `json:"campaign"`
	Undo      bool     `json:"undo"`
	Add       []string `json:"add"`    // PEM
	Remove    []string `json:"remove"` // SHA-256 of certificates
	Endpoint  struct {
		MQTT  string `json:"mqtt"`
		HTTPS string `json:"https"`
	} `json:"endpoint"`
	Connect struct {
		Attempts int `json:"attempts"`
		Seconds  int `json:"seconds"`
	} `json:"connect"`
}

const (
	opTrust   = "update-trust"
	trustFile = "trust.json"
	maxRoots  = 12 // their names fit into one detail of a job

	codeUnverified = "bundle-unverified"
)

// readTrust tells whether a job is one of these.
func readTrust(raw json.RawMessage) (d trustDocument, ok bool) {
	err := strictjson.Decode(raw, &d, strictjson.AllowUnknownFields())
	if d.Connect.Attempts < 1 || d.Connect.Attempts > 100 {
		d.Connect.Attempts = trialTries
	}
	if d.Connect.Seconds < 1 || d.Connect.Seconds > 7*24*3600 {
		d.Connect.Seconds = trialSeconds
	}
	return d, err == nil && d.Operation == opTrust
}

// anchors is whom the device trusts, and where its service is.
type anchors struct {
	Roots [][]byte `json:"roots,omitempty"` // DER
	MQTT  string   `json:"mqtt,omitempty"`  // host:port; "" = as configured
	HTTPS string   `json:"https,omitempty"` // https://host:port; "" = as configured
}

func (a *anchors) ids() (out []string) {
	for _, der := range a.Roots {
		out = append(out, fleet.RootID(der))
	}
	slices.Sort(out)
	return out
}

// trust is trust.json: what is in use, and a change of it. It is replaced as one
// step, so there is no moment at which the device trusts nobody; each step of a
// change is harmless to repeat. trust.pem is a copy of what is in use.
type trust struct {
	Job       string    `json:"job"`
	Execution int64     `json:"execution"`
	Campaign  string    `json:"campaign,omitempty"`
	Undo      bool      `json:"undo,omitempty"`
	Step      string    `json:"step"` // issue (to be looked at first), trial, connected, fallback, done
	Now       anchors   `json:"now"`
	Next      *anchors  `json:"next,omitempty"`   // on trial
	Before    *anchors  `json:"before,omitempty"` // for an undo, and where to look if the new place is not there
	Attempts  int       `json:"attempts"`
	Seconds   int       `json:"seconds"`
	Failed    int       `json:"failed"`
	Since     time.Time `json:"since,omitzero"`
	Code      string    `json:"code,omitempty"` // why it fell back
}

// loadTrust reads the file; nil if there is none. One that cannot be read is none:
// trust.pem has what was in use, and the job comes again.
func loadTrust(dir string) (*trust, error) {
	raw, err := os.ReadFile(filepath.Join(dir, trustFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ErrState.Wrap(err, "")
	}
	var t trust
	if strictjson.Decode(raw, &t, strictjson.WithLimits(strictjson.Limits{Size: 512 << 10})) != nil || pool(t.Now.Roots) == nil || t.Step == stepTrial && (t.Next == nil || pool(t.Next.Roots) == nil) {
		return nil, nil
	}
	return &t, nil
}

// pool makes roots of certificates; nil if there is none.
func pool(ders [][]byte) *x509.CertPool {
	p, n := x509.NewCertPool(), 0
	for _, der := range ders {
		if c, err := x509.ParseCertificate(der); err == nil {
			p.AddCert(c)
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return p
}

// installed is the bundle of a device that no job has changed: trust.pem that the
// service gave, or root.pem that the factory did.
func installed(dir string) [][]byte {
	for _, name := range []string{"trust.pem", "root.pem"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			if ders := dersOf(string(b)); pool(ders) != nil {
				return ders
			}
		}
	}
	return nil
}

// retrusted changes trust.json; the change counts only once it is on disk.
func (r *runner) retrusted(f func(t *trust)) error {
	r.trustMu.Lock()
	defer r.trustMu.Unlock()
	return r.putTrust(f)
}

// putTrust is retrusted for whoever holds the lock.
func (r *runner) putTrust(f func(t *trust)) error {
	var next trust
	if r.trust != nil {
		next = *r.trust
	}
	f(&next)
	b, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = r.cfg.write(filepath.Join(r.cfg.Dir, trustFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return ErrBundle.Wrap(err, "It cannot be written.")
	}
	r.trust = &next
	return nil
}

// trusting gives a copy of trust.json, nil if there is none.
func (r *runner) trusting() *trust {
	r.trustMu.Lock()
	defer r.trustMu.Unlock()
	if r.trust == nil {
		return nil
	}
	t := *r.trust
	return &t
}

// trustTrial gives the change whose anchors the next connection tries.
func (r *runner) trustTrial() *trust {
	if t := r.trusting(); t != nil && t.Step == stepTrial && t.Next != nil {
		return t
	}
	return nil
}

// base is the configuration with the roots and the service in use.
func (r *runner) base() Config {
	cfg := r.cfg.Config
	if t := r.trusting(); t != nil {
		cfg.Roots = pool(t.Now.Roots)
		if t.Now.HTTPS != "" {
			cfg.Server = t.Now.HTTPS
		}
	}
	return cfg
}

// place is where a connection goes, and whom it trusts there.
type place struct {
	endpoint, serverName string
	roots                *x509.CertPool
	key                  string // another one, another TLS session
}

func (r *runner) placeOf(a *anchors) place {
	p := place{endpoint: r.cfg.Endpoint, serverName: r.cfg.ServerName, roots: r.cfg.Roots}
	if a == nil {
		return p
	}
	if p.roots = pool(a.Roots); a.MQTT != "" && a.MQTT != p.endpoint {
		p.endpoint, p.serverName = a.MQTT, ""
	}
	p.key = strings.Join(a.ids(), ",") + "@" + p.endpoint
	return p
}

// where is the place of the next connection: that of a change on trial, else the one
// in use. A new place that cannot be reached for long is left for the one before now
// and then, with the roots that are in use now: what was removed stays removed.
func (r *runner) where(t *trust) place {
	if t != nil {
		return r.placeOf(t.Next)
	}
	t = r.trusting()
	if t == nil {
		return r.placeOf(nil)
	}
	at := t.Now
	if t.Before != nil && at.MQTT != t.Before.MQTT && r.unreached >= refusals && r.unreached%2 == 1 {
		at.MQTT = t.Before.MQTT
	}
	return r.placeOf(&at)
}

// retrust does the job, from where the last life left it:
//
//  1. look: a TLS handshake with broker and device door, with the roots and at the
//     places that are to be; what they show must lead to these roots;
//  2. trial: the connection ends and the next one is made so;
//  3. connected: the bundle is in use, the one before is kept; the service is told
//     over the new connection. fallback: the service is told over the old one.
func (r *runner) retrust(ctx context.Context, s *session, e execution, d trustDocument) error {
	r.event(Event{Event: EventJobStarted, Job: e.Job, Details: e.Details})
	if d.Version > 1 {
		return r.finish(ctx, s, e, refuse("version %d is not known to this device", d.Version))
	}
	t := r.trusting()
	if t == nil || t.Job != e.Job || t.Execution != e.Number {
		next, out := r.beginTrust(t, e, d)
		if out != nil {
			return r.finish(ctx, s, e, *out)
		}
		if err := r.cfg.step("trust-begin"); err != nil {
			return err
		}
		if err := r.retrusted(func(t *trust) { *t = *next }); err != nil {
			return err
		}
	} else if t.Step == stepDone { // its report was lost, or the service asks again
		if err := r.retrusted(func(t *trust) {
			if t.Step = stepConnected; t.Code != "" {
				t.Step = stepFallback
			}
		}); err != nil {
			return err
		}
	}
	if t = r.trusting(); t.Step == stepIssue {
		if err := r.examine(ctx, t); err != nil {
			return err
		}
		t = r.trusting()
	}
	if t.Step == stepTrial {
		nudge(r.turn)
		return errTurn
	}
	return r.settleTrust(ctx, s, e)
}

// beginTrust is the change that a document asks for, or the outcome of one that asks
// for nothing, or for what cannot be.
func (r *runner) beginTrust(t *trust, e execution, d trustDocument) (*trust, *outcome) {
	next := trust{Job: e.Job, Execution: e.Number, Campaign: d.Campaign, Undo: d.Undo, Step: stepIssue, Attempts: d.Connect.Attempts, Seconds: d.Connect.Seconds}
	if t != nil {
		next.Now = t.Now
	} else {
		next.Now = anchors{Roots: installed(r.cfg.Dir)}
	}
	if len(next.Now.Roots) == 0 {
		no := refuse("this device has no bundle in trust.pem or root.pem to change")
		return nil, &no
	}
	if d.Undo {
		if t == nil || t.Campaign != d.Campaign || t.Undo || t.Code != "" || t.Before == nil {
			out := outcome{status: succeeded, details: r.trustDetails("undone", &next.Now)} // there is nothing to undo
			return nil, &out
		}
		next.Next = t.Before
		return &next, nil
	}
	to, why := next.Now.change(&d)
	if why != "" {
		no := refuse("%s", why)
		return nil, &no
	}
	next.Next = &to
	return &next, nil
}

// change is the anchors after what a document asks for; why says what is wrong with it.
func (a *anchors) change(d *trustDocument) (to anchors, why string) {
	to = *a
	to.Roots = nil
	have := map[string]bool{}
	for _, r := range d.Remove {
		have[strings.ToLower(r)] = true
	}
	var add [][]byte
	for _, text := range d.Add {
		ders := dersOf(text)
		if len(ders) != 1 {
			return to, "what is to be added is not one certificate in PEM each"
		}
		c, err := x509.ParseCertificate(ders[0])
		if err != nil || !c.BasicConstraintsValid || !c.IsCA {
			return to, "what is to be added is no certificate of a CA"
		}
		if have[fleet.RootID(ders[0])] {
			return to, "the same root is to be added and removed"
		}
		add = append(add, ders[0])
	}
	for _, der := range append(slices.Clone(a.Roots), add...) {
		if id := fleet.RootID(der); !have[id] {
			have[id] = true
			to.Roots = append(to.Roots, der)
		}
	}
	if n := len(to.Roots); n == 0 || n > maxRoots {
		return to, "the bundle would have " + strconv.Itoa(n) + " roots; it has 1 to " + strconv.Itoa(maxRoots)
	}
	if d.Endpoint.MQTT != "" {
		host, port, err := net.SplitHostPort(d.Endpoint.MQTT)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || perr != nil || n == 0 {
			return to, "the endpoint of MQTT is not HOST:PORT"
		}
		to.MQTT = d.Endpoint.MQTT
	}
	if d.Endpoint.HTTPS != "" {
		u, err := url.Parse(d.Endpoint.HTTPS)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return to, "the endpoint of HTTPS is not https://HOST:PORT"
		}
		to.HTTPS = "https://" + u.Host
	}
	return to, ""
}

// examine is the step before the connection is risked: do broker and door show
// what leads to the new roots? The door may be out of reach, where its place stays.
func (r *runner) examine(ctx context.Context, t *trust) error {
	if err := r.cfg.step("trust-examine"); err != nil {
		return err
	}
	p := r.placeOf(t.Next)
	name := p.serverName
	if name == "" {
		name, _, _ = net.SplitHostPort(p.endpoint)
	}
	err := r.shake(ctx, p.endpoint, name, p.roots)
	door := r.cfg.Server
	if t.Next.HTTPS != "" {
		door = t.Next.HTTPS
	}
	if u, uerr := url.Parse(door); err == nil && uerr == nil && u.Host != "" {
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "443")
		}
		err = r.shake(ctx, host, u.Hostname(), p.roots)
		if err != nil && !unverified(err) && t.Next.HTTPS == t.Now.HTTPS {
			err = nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return r.retrusted(func(t *trust) { t.Step, t.Failed, t.Since = stepTrial, 0, r.now() })
	}
	r.missedTrust(err, stepIssue)
	if now := r.trusting(); now.Step == stepFallback {
		return nil
	}
	return ErrBundle.Wrap(err, "The service cannot be looked at with it.")
}

// shake is one TLS handshake that is not used. What the service thinks of this
// device is not asked.
func (r *runner) shake(ctx context.Context, addr, name string, roots *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	dial := r.cfg.dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: name, NextProtos: nil, Time: r.now})
	err = conn.HandshakeContext(ctx)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return nil // it was verified, and has its own opinion
	}
	return err
}

// unverified tells whether what the service showed does not lead to the roots.
func unverified(err error) bool {
	var bad *tls.CertificateVerificationError
	return errors.As(err, &bad)
}

// missedTrust notes that the new anchors did not work out at a step, and goes back
// when that was the last attempt. What does not verify is not tried again. Where
// the note cannot be written, it counts for as long as the process lives.
func (r *runner) missedTrust(cause error, step string) {
	r.trustMu.Lock()
	defer r.trustMu.Unlock()
	if r.trust == nil || r.trust.Step != step || r.trust.Next == nil {
		return
	}
	now, next := r.now(), *r.trust
	if reached(cause) || next.Next.MQTT != next.Now.MQTT { // else it may be the network's word about everybody
		next.Failed++
	}
	if d := now.Sub(next.Since); next.Since.IsZero() || d < 0 {
		next.Since = now
	}
	late := now.Sub(next.Since) > time.Duration(next.Seconds)*time.Second
	if next.Failed >= next.Attempts || late || unverified(cause) {
		if next.Step, next.Next, next.Code = stepFallback, nil, codeOf(cause); unverified(cause) {
			next.Code = codeUnverified
		}
	}
	if err := r.putTrust(func(t *trust) { *t = next }); err != nil {
		r.trust = &next
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	}
	if next.Step == stepFallback {
		r.event(Event{Event: EventFallback, Job: next.Job, Code: next.Code, Reason: wordsOf(cause)})
	}
}

// promoteTrust puts what the connection was made with into use; what was in use
// before is kept.
func (r *runner) promoteTrust() error {
	r.trustMu.Lock()
	defer r.trustMu.Unlock()
	t := r.trust
	if t == nil || t.Step != stepTrial || t.Next == nil {
		return errTurn // the change was called off while it connected
	}
	if err := r.cfg.step("trust-promote"); err != nil {
		return err
	}
	f := func(t *trust) {
		before := t.Now
		t.Now, t.Before, t.Next, t.Step, t.Code = *t.Next, &before, nil, stepConnected, ""
	}
	if err := r.putTrust(f); err != nil {
		return err // the next connection tries it again
	}
	if err := r.cfg.step("trust-export"); err != nil {
		return err
	}
	r.exportTrust()
	return nil
}

// exportTrust writes the bundle for other software; the next start does it again.
func (r *runner) exportTrust() {
	name := filepath.Join(r.cfg.Dir, "trust.pem")
	text := pemOf(r.trust.Now.Roots)
	if have, err := os.ReadFile(name); err == nil && string(have) == string(text) {
		return
	}
	if err := r.cfg.write(name, text, 0o644); err != nil {
		r.event(Event{Event: EventRefused, Code: codeOf(ErrBundle.Wrap(err, "")), Reason: err.Error()})
	}
}

// trustDetails says what the device trusts now.
func (r *runner) trustDetails(step string, a *anchors) map[string]string {
	ids := a.ids()
	id, _ := fleet.BundleID(ids)
	out := map[string]string{"step": step, "bundle": id, "roots": strings.Join(ids, ",")}
	if a.MQTT != "" {
		out["endpoint"] = short(a.MQTT)
	}
	return out
}

// settleTrust tells the service how the change ended.
func (r *runner) settleTrust(ctx context.Context, s *session, e execution) error {
	t := r.trusting()
	if now := r.session.Load(); now != nil {
		s = now
	}
	out := outcome{status: succeeded, details: r.trustDetails("connected", &t.Now)}
	switch {
	case t.Step == stepFallback:
		out.status = failed
		out.details["step"], out.details["code"] = "fallback", short(t.Code)
	case t.Undo:
		out.details["step"] = "undone"
	}
	if err := r.cfg.step("trust-report"); err != nil {
		return err
	}
	if err := r.ended(ctx, s, e, out); err != nil {
		return err
	}
	if err := r.cfg.step("trust-forget"); err != nil {
		return err
	}
	return r.retrusted(func(t *trust) { t.Step = stepDone })
}

// forgetTrust drops what was begun for a job that the service does not have any
// more. A trial is decided by the connections first.
func (r *runner) forgetTrust() error {
	t := r.trusting()
	if t == nil || t.Step == stepDone || t.Step == stepTrial {
		return nil
	}
	r.event(Event{Event: EventJobDiscarded, Job: t.Job, Code: "job-gone"})
	return r.retrusted(func(t *trust) { t.Step, t.Next = stepDone, nil })
}
