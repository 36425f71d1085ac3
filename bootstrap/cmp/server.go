package cmp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"mime"
	"net/http"
	"strings"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/der"
	"hallmark/internal/fault"
	"hallmark/web"
)

// Prefix is where the protocol lives (RFC 9811, Section 3.4); a profile is named
// by Prefix/p/PROFILE.
const Prefix = "/.well-known/cmp"

const media = "application/pkixcmp"

// Config makes a Server.
type Config struct {
	Enroller *bootstrap.Enroller
	// Tenant whose authorities come along with answers.
	Tenant string
	// Key gives the service's own key and certificate, its issuer after it, which
	// protect the answers to messages that were signed.
	Key func(ctx context.Context) (crypto.Signer, []*x509.Certificate, error)
	// NonceKey authenticates nonces; all nodes need the same. nil draws one.
	NonceKey []byte
	Log      *slog.Logger
	Now      func() time.Time
}

// Server speaks CMP. It is safe for concurrent use.
type Server struct {
	cfg          Config
	now          func() time.Time
	log          *slog.Logger
	transactions bootstrap.Transactions
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if len(s.cfg.NonceKey) == 0 {
		s.cfg.NonceKey = make([]byte, 32)
		rand.Read(s.cfg.NonceKey)
	}
	return s
}

// clockSkew is how far a message's time may be from ours: devices have bad clocks,
// and what an old message asks for was given to it before.
const clockSkew = time.Hour

// ServeHTTP takes a message and answers with one (RFC 9811, Section 3).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, _ := strings.CutPrefix(r.URL.Path, Prefix)
	label, named := strings.CutPrefix(strings.TrimSuffix(rest, "/"), "/p/")
	name, ok := labels[label]
	if !ok || !named && strings.TrimSuffix(rest, "/") != "" || named && label == "" {
		web.Fail(w, r, bootstrap.ErrEnrolProfile.New(""))
		return
	}
	route := Prefix
	if named {
		route = Prefix + "/p/{profile}"
	}
	web.SetRoute(r.Context(), route)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		web.Fail(w, r, web.ErrMethod.New(""))
		return
	}
	address := web.RemoteAddr(r).String()
	if err := s.cfg.Enroller.Blocked(address); err != nil {
		web.Fail(w, r, err)
		return
	}
	if m, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || m != media {
		web.Fail(w, r, ErrMessage.New("Its content type is not %s.", media))
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		web.Fail(w, r, ErrMessage.Wrap(err, "It is too long, or broke off."))
		return
	}
	a, why := s.handle(r.Context(), raw, name)
	if why != nil {
		if k := fault.KindOf(why); k == fault.Unauthenticated || k == fault.Forbidden {
			s.cfg.Enroller.Refused(address)
		}
		web.FailIn(w, r, why, func(*fault.Fault) {})
	}
	out, err := a.encode()
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	w.Write(out) // a device that is gone sends the message again
}

// session is one message whose protection was verified.
type session struct {
	*message
	bootstrap.Applicant
	profile profile.Name
	by      *protector
}

// handle works on a message. It always has an answer; why is the refusal in it.
func (s *Server) handle(ctx context.Context, raw []byte, name profile.Name) (a *answer, why error) {
	m, err := parse(raw)
	if err != nil {
		return s.refuse(ctx, nil, nil, err), err
	}
	who, by, err := s.authenticate(ctx, m)
	if err != nil {
		return s.refuse(ctx, m, by, err), err
	}
	c := &session{message: m, Applicant: who, profile: name, by: by}
	if a, err = s.work(ctx, c); a == nil {
		return s.refuse(ctx, m, by, err), err
	}
	return s.finish(ctx, c, a), err
}

// refuse is an error message, protected by the service's key where the sender's
// way is not known or not to be used.
func (s *Server) refuse(ctx context.Context, m *message, by *protector, why error) *answer {
	a := &answer{to: m, kind: bodyError, body: errorContent(why), by: by, now: s.now(), sender: emptyName}
	if by == nil {
		if own, err := s.own(ctx); err == nil {
			a.by = own
		}
	}
	return s.signed(ctx, a)
}

// own is the service's key.
func (s *Server) own(ctx context.Context) (*protector, error) {
	key, chain, err := s.cfg.Key(ctx)
	if err != nil {
		return nil, err
	}
	return withKey(key, chain)
}

// signed names the service as sender, and lets the certificates come along that its
// signature needs.
func (s *Server) signed(ctx context.Context, a *answer) *answer {
	var chain []*x509.Certificate
	if a.by != nil && a.by.password == nil {
		chain = a.by.chain
	} else if _, own, err := s.cfg.Key(ctx); err == nil {
		chain = own[:1]
	}
	if len(chain) > 0 {
		a.sender = chain[0].RawSubject
	}
	if a.by != nil && a.by.password == nil {
		var extra [][]byte
		for _, c := range chain {
			extra = append(extra, c.Raw)
		}
		a.extra = append(extra, a.extra...)
	}
	return a
}

func (s *Server) finish(ctx context.Context, c *session, a *answer) *answer {
	a.to, a.by, a.now = c.message, c.by, s.now()
	return s.signed(ctx, a)
}

// authenticate verifies the protection, before anything else of the message is
// believed.
func (s *Server) authenticate(ctx context.Context, m *message) (who bootstrap.Applicant, by *protector, err error) {
	if m.protection == nil || m.algorithm == nil {
		return who, nil, ErrProtection.New("It has none.")
	}
	if withPassword(m.algorithm) {
		who, secret, err := s.cfg.Enroller.ByReference(ctx, string(m.senderKID))
		if err != nil {
			return who, nil, err
		}
		p, err := passwordOf(m.algorithm, secret.Reveal())
		if err != nil {
			return who, nil, err
		}
		if subtle.ConstantTimeCompare(p.sum(m.protectedPart), m.protection) != 1 {
			return who, nil, ErrProtection.New("")
		}
		web.SetActor(ctx, "enrol-password:"+who.Password.ID)
		return who, withSecret(p), s.fresh(m)
	}
	algorithm, err := signatureOf(m.algorithm)
	if err != nil {
		return who, nil, err
	}
	c := m.signer()
	if c == nil {
		return who, nil, ErrProtection.New("The certificate of the signer did not come along.")
	}
	if err := c.CheckSignature(algorithm, m.protectedPart, m.protection); err != nil {
		return who, nil, ErrProtection.Wrap(err, "")
	}
	if m.senderName != nil && !bytes.Equal(m.senderName, c.RawSubject) {
		return who, nil, ErrProtection.New("The sender is not the subject of the certificate.")
	}
	by, err = s.own(ctx)
	if err != nil {
		return who, nil, err
	}
	return bootstrap.Applicant{Certificate: c}, by, s.fresh(m)
}

// fresh refuses a message without what ties an answer to it, and one of another
// time.
func (s *Server) fresh(m *message) error {
	if len(m.transaction) < 8 || len(m.senderNonce) < 8 {
		return ErrNonce.New("")
	}
	if d := s.now().Sub(m.time); !m.time.IsZero() && (d > clockSkew || d < -clockSkew) {
		return ErrClock.New("It says %s.", m.time.Format(time.RFC3339))
	}
	return nil
}

// work does what a message asks for. An answer beside an error has the refusal in
// its own form.
func (s *Server) work(ctx context.Context, c *session) (*answer, error) {
	switch c.kind {
	case bodyIR, bodyCR, bodyKUR, bodyP10CR:
		return s.certify(ctx, c)
	case bodyRR:
		return s.revoke(ctx, c)
	case bodyCertConf:
		return s.confirm(ctx, c)
	case bodyGenM:
		return s.general(ctx, c)
	}
	return nil, ErrBody.New("Body %d.", c.kind)
}

// certify answers ir, cr, kur and p10cr.
func (s *Server) certify(ctx context.Context, c *session) (*answer, error) {
	kinds := map[kind]kind{bodyIR: bodyIP, bodyCR: bodyCP, bodyP10CR: bodyCP, bodyKUR: bodyKUP}
	if !s.transactions.Begin(c.transaction, sha256.Sum256(c.body), s.now()) {
		return nil, ErrTransaction.New("")
	}
	a := &answer{kind: kinds[c.kind]}
	id := int64(-1) // of a p10cr (RFC 9483, Section 4.1.4)
	out, changed, err := s.enrol(ctx, c, &id)
	if err != nil {
		a.body = certResponse(id, rejection, err, nil, nil)
		return a, err
	}
	how := accepted
	if changed {
		how = grantedWithMods
	}
	var roots [][]byte
	if c.kind == bodyIR {
		roots = out.Roots
	}
	a.body, a.extra = certResponse(id, how, nil, out.Certificate, roots), out.Chain
	a.nonce, a.implicit = s.nonce(c.transaction, out.Certificate), c.implicit
	return a, nil
}

// enrol asks the Enroller. changed tells that the subject is not the one that was
// asked for.
func (s *Server) enrol(ctx context.Context, c *session, id *int64) (out bootstrap.Enrolled, changed bool, err error) {
	app := bootstrap.Application{Applicant: c.Applicant, Profile: c.profile}
	do := s.cfg.Enroller.Enrol
	if c.kind == bodyP10CR {
		if app.Request, err = csr.Parse(c.content); err != nil {
			return out, false, err
		}
	} else {
		req, err := readCertReqMessages(c.content)
		if err != nil {
			return out, false, err
		}
		*id, app.Request = req.id, req.request
		if c.kind == bodyKUR {
			do = s.cfg.Enroller.Reenrol
			if err := update(c, req); err != nil {
				return out, false, err
			}
		}
	}
	if out, err = do(ctx, app); err != nil {
		return out, false, err
	}
	cert, err := x509.ParseCertificate(out.Certificate)
	if err != nil {
		return out, false, err
	}
	return out, len(app.Request.RawSubject) > 2 && !bytes.Equal(app.Request.RawSubject, cert.RawSubject), nil
}

// update completes the request of a kur: it is about the certificate that signed
// it and no other (A13), whose names stand where it gives none.
func update(c *session, r *certificateRequest) error {
	signer := c.Certificate
	if signer == nil {
		return bootstrap.ErrEnrolRenew.New("A one-time password updates nothing.")
	}
	if r.oldCert != nil && (new(big.Int).SetBytes(r.oldCert.serial).Cmp(signer.SerialNumber) != 0 || !bytes.Equal(r.oldCert.issuer, signer.RawIssuer)) {
		return bootstrap.ErrEnrolRenew.New("It names another certificate than the one that signed it.")
	}
	if r.template.subject == nil {
		r.request.RawSubject = signer.RawSubject
	}
	if !r.template.extended {
		r.request.Extensions = nil
		for _, x := range signer.Extensions {
			if x.Id.Equal([]int{2, 5, 29, 17}) {
				r.request.Extensions = []csr.Extension{{ID: der.MustOID("2.5.29.17"), Value: x.Value}}
			}
		}
	}
	return nil
}

// nonce is what a confirmation of the certificate has to answer.
func (s *Server) nonce(transaction, certificate []byte) []byte {
	h := hmac.New(sha256.New, s.cfg.NonceKey)
	h.Write([]byte("hallmark cmp nonce v1\x00"))
	sum := sha256.Sum256(certificate)
	h.Write(sum[:])
	h.Write(transaction)
	return h.Sum(nil)[:16]
}

// confirm answers certConf (RFC 9810, Section 5.3.18). A certificate that its
// device does not want is revoked.
func (s *Server) confirm(ctx context.Context, c *session) (*answer, error) {
	conf, err := readConfirmation(c.content)
	if err != nil {
		return nil, err
	}
	// Our nonce names the certificate, also where an empty list declines it.
	r, err := s.cfg.Enroller.Find(ctx, c.Applicant, func(raw []byte) bool {
		return subtle.ConstantTimeCompare(s.nonce(c.transaction, raw), c.recipNonce) == 1 && (conf == nil || bytes.Equal(conf.of(raw), conf.hash))
	})
	if fault.KindOf(err) == fault.NotFound {
		return nil, ErrNonce.New("")
	}
	if err != nil {
		return nil, err
	}
	if conf == nil || !conf.accepted {
		if err := s.cfg.Enroller.Decline(ctx, c.Applicant, &r); err != nil {
			return nil, err
		}
	}
	return &answer{kind: bodyConf, body: der.AppendNull(nil)}, nil
}

// revoke answers rr.
func (s *Server) revoke(ctx context.Context, c *session) (*answer, error) {
	if !s.transactions.Begin(c.transaction, sha256.Sum256(c.body), s.now()) {
		return nil, ErrTransaction.New("")
	}
	r, err := readRevocation(c.content)
	if err != nil {
		return nil, err
	}
	serial, ok := ca.SerialFromInt(new(big.Int).SetBytes(r.serial))
	if !ok {
		err = bootstrap.ErrEnrolUnknown.New("")
	} else {
		err = s.cfg.Enroller.Revoke(ctx, c.Applicant, r.issuer, serial, r.reason)
	}
	if err != nil {
		return &answer{kind: bodyRP, body: revocationResponse(rejection, err, nil)}, err
	}
	return &answer{kind: bodyRP, body: revocationResponse(accepted, nil, r)}, nil
}

// general answers genm: the authorities to who asks for them, else nothing.
func (s *Server) general(ctx context.Context, c *session) (*answer, error) {
	list, err := der.Only(c.content, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	asks := false
	for in := list.Content; len(in) > 0; {
		e, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		in = rest
		id, _, err := der.Next(e.Content)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		if o, err := id.OID(); err == nil && o == oidCACerts {
			asks = true
		}
	}
	a := &answer{kind: bodyGenP, body: der.Sequence(nil, func(b []byte) []byte { return b })}
	if !asks {
		return a, nil
	}
	certs, err := s.cfg.Enroller.CACertificates(ctx, s.cfg.Tenant)
	if err != nil {
		return nil, err
	}
	var raw [][]byte
	for _, x := range certs {
		raw = append(raw, x.Raw)
	}
	a.body = der.Sequence(nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte { return appendList(oidCACerts.Append(b), raw) })
	})
	return a, nil
}
