package acme

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.step.sm/crypto/jose"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme/state"
	"hallmark/internal/fault"
	"hallmark/web"
)

// Prefix is where the protocol lives; its directory is at Prefix + "directory".
const Prefix = "/acme/"

// Config makes a Server.
type Config struct {
	Enroller *bootstrap.Enroller
	Store    state.Store
	Tenant   string
	// Hosts are the names under which clients reach the door; none means any.
	Hosts []string
	// External wants an external account key for every account (RFC 8555, Section
	// 7.3.4). Without it whoever proves a device gets its operational certificate,
	// and whoever proves a name of Sites that of a server.
	External bool
	// Attestation are the roots of device-attest-01 by format: step, tpm, apple. A
	// format without roots is off.
	Attestation map[string]*x509.CertPool
	// Sites are the servers that may prove their names; nil switches http-01 and
	// dns-01 off.
	Sites *Sites
	Log   *slog.Logger
	Now   func() time.Time
}

// Server speaks ACME. It is safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	nonces nonces
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Log, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if cfg.Sites != nil {
		if err := cfg.Sites.Check(); err != nil {
			return nil, err
		}
	}
	s.nonces = nonces{key: cfg.Enroller.Derive("acme/nonce"), store: cfg.Store, now: s.now}
	return s, nil
}

// signer says how a request is signed.
type signer uint8

const (
	byAccount signer = iota // kid
	byKey                   // jwk
	byEither
)

// operation is one resource.
type operation struct {
	signed signer
	do     func(s *Server, c *call) error
}

// operations by the pattern of their path; {id} is one segment.
var operations = map[string]operation{
	"new-account":         {byKey, (*Server).newAccount},
	"new-order":           {byAccount, (*Server).newOrder},
	"revoke-cert":         {byEither, (*Server).revoke},
	"key-change":          {byAccount, (*Server).keyChange},
	"account/{id}":        {byAccount, (*Server).account},
	"account/{id}/orders": {byAccount, (*Server).orders},
	"order/{id}":          {byAccount, (*Server).showOrder},
	"order/{id}/finalize": {byAccount, (*Server).finalize},
	"authz/{id}":          {byAccount, (*Server).authorization},
	"challenge/{id}":      {byAccount, (*Server).challenge},
	"certificate/{id}":    {byAccount, (*Server).certificate},
}

// call is one request. Of a signed one all that follows was verified.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	base    string // https://HOST/acme/
	id      string // of the resource
	account *state.Account
	key     *jose.JSONWebKey
	print   string // of key
	url     string
	payload []byte
}

// Handler serves Prefix.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, base: "https://" + r.Host + Prefix}
		if err := s.serve(c); err != nil {
			web.FailIn(w, r, err, c.fail)
		}
	})
}

func (s *Server) serve(c *call) error {
	path, ok := strings.CutPrefix(c.r.URL.Path, Prefix)
	if !ok {
		return web.ErrRoute.New("")
	}
	if !s.ours(c.r.Host) {
		return ErrURL.New("%.80q is no name of this service.", c.r.Host)
	}
	h := c.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Link", "<"+c.base+`directory>;rel="index"`)
	switch path {
	case "directory", "new-nonce":
		return s.unsigned(c, path)
	}
	pattern, id := split(path)
	op, ok := operations[pattern]
	if !ok {
		return web.ErrRoute.New("")
	}
	c.id = id
	web.SetRoute(c.r.Context(), Prefix+pattern)
	if c.r.Method != http.MethodPost {
		h.Set("Allow", http.MethodPost)
		return web.ErrMethod.New("")
	}
	// Also with a refusal comes the nonce for the next try (RFC 8555, Section 6.5).
	h.Set("Replay-Nonce", s.nonces.make())
	address := web.RemoteAddr(c.r).String()
	if err := s.cfg.Enroller.Blocked(address); err != nil {
		return err
	}
	err := s.open(c, op.signed)
	if err == nil {
		err = op.do(s, c)
	}
	if k := fault.KindOf(err); k == fault.Unauthenticated || k == fault.Forbidden && !errors.Is(err, ErrNotReady) {
		s.cfg.Enroller.Refused(address)
	}
	return err
}

// split tells a path's pattern and the id in it.
func split(path string) (pattern, id string) {
	parts := strings.Split(path, "/")
	if len(parts) > 1 {
		id, parts[1] = parts[1], "{id}"
	}
	return strings.Join(parts, "/"), id
}

func (s *Server) ours(host string) bool {
	if len(s.cfg.Hosts) == 0 {
		return true
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, strings.Trim(host, "[]")) })
}

// unsigned is the directory (RFC 8555, Section 7.1.1) and newNonce (Section 7.2).
func (s *Server) unsigned(c *call, path string) error {
	web.SetRoute(c.r.Context(), Prefix+path)
	if m := c.r.Method; m != http.MethodGet && m != http.MethodHead {
		c.w.Header().Set("Allow", "GET, HEAD")
		return web.ErrMethod.New("")
	}
	if path == "new-nonce" {
		c.w.Header().Set("Replay-Nonce", s.nonces.make())
		if c.r.Method == http.MethodGet {
			c.w.WriteHeader(http.StatusNoContent)
		}
		return nil
	}
	return c.reply(http.StatusOK, map[string]any{
		"newNonce": c.base + "new-nonce", "newAccount": c.base + "new-account", "newOrder": c.base + "new-order",
		"revokeCert": c.base + "revoke-cert", "keyChange": c.base + "key-change",
		"meta": map[string]any{"externalAccountRequired": s.cfg.External},
	})
}

// open reads a message and finds out who signed it (RFC 8555, Section 6). The nonce
// is spent last: only somebody with a key makes us write.
func (s *Server) open(c *call, how signer) error {
	// 1. Read.
	if media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || media != "application/jose+json" {
		return ErrMedia.New("")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err != nil {
		return ErrTooLarge.New("Or it broke off.")
	}
	m, err := parse(raw)
	if err != nil {
		return err
	}
	// 2. For us, and signed as we understand it.
	if err := m.known(); err != nil {
		return err
	}
	c.url = strings.TrimSuffix(c.base, Prefix) + c.r.URL.Path
	if m.URL != c.url || c.r.URL.RawQuery != "" {
		return ErrURL.New("")
	}
	if (m.KeyID == "") == (m.JWK == nil) {
		return ErrMessage.New("The protected header has to have either kid or jwk.")
	}
	// 3. Whose key.
	ctx := c.r.Context()
	switch {
	case m.JWK != nil && how == byAccount:
		return ErrMessage.New("This is signed with an account, which kid names.")
	case m.KeyID != "" && how == byKey:
		return ErrMessage.New("This is signed with a key, which jwk has.")
	case m.JWK != nil:
		if c.key, c.print, err = readKey(m.JWK); err != nil {
			return err
		}
	default:
		id, ok := strings.CutPrefix(m.KeyID, c.base+"account/")
		if !ok || id == "" {
			return state.ErrNoAccount.New("")
		}
		a, err := s.cfg.Store.Account(ctx, s.cfg.Tenant, id)
		if err != nil {
			return err
		}
		if c.key, c.print, err = readKey(a.JWK); err != nil {
			return err
		}
		c.account = &a
	}
	if err := m.verify(c.key.Key); err != nil {
		return err
	}
	// 4. Once.
	if err := s.nonces.spend(ctx, m.Nonce); err != nil {
		return err
	}
	if c.account != nil {
		web.SetActor(ctx, "acme-account:"+c.account.ID)
		if c.account.Status != valid {
			return ErrAccountEnded.New("")
		}
	}
	c.payload = m.payload
	return nil
}

// body reads the payload into v; members that we do not know are left alone (RFC
// 8555, Section 6).
func (c *call) body(v any) error {
	if err := decodeJSON(c.payload, v); err != nil {
		return ErrMessage.Wrap(err, "The payload is not the JSON object that this takes.")
	}
	return nil
}

// get wants POST-as-GET (RFC 8555, Section 6.3).
func (c *call) get() error {
	if len(c.payload) > 0 {
		return ErrMessage.New("The payload has to be empty.")
	}
	return nil
}

func (c *call) reply(status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		c.w.Write(b) // a client that is gone asks again
	}
	return nil
}

// newID makes the name of an account or order.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return encode(b[:])
}

// instant is how times are kept.
func (s *Server) instant() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// bound is the external account key behind an account, which has to be good still;
// nil without one.
func (s *Server) bound(ctx context.Context, a *state.Account) (*state.Key, error) {
	if a.Key == "" {
		if s.cfg.External {
			return nil, ErrAccountEnded.New("") // it was made before one was needed
		}
		return nil, nil
	}
	k, err := s.cfg.Store.Key(ctx, a.Tenant, a.Key)
	if err != nil {
		return nil, err
	}
	if !k.RevokedAt.IsZero() || k.Account != a.ID {
		return nil, ErrAccountEnded.New("")
	}
	return &k, nil
}
