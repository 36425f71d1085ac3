package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/provisioner/hook"
	"hallmark/web"
)

// Prefix is where the protocol lives; a profile is named by Prefix/PROFILE. A
// client may add the path of the first server there was, pkiclient.exe.
const Prefix = "/scep"

const classic = "/pkiclient.exe"

// RA is a key and certificate that messages are encrypted for and answers are
// signed with.
type RA struct {
	Signer    crypto.Signer
	Decrypter crypto.Decrypter    // RSA
	Chain     []*x509.Certificate // its own certificate first
}

// Hook vouches for challenges; [hook.Caller] does.
type Hook interface {
	Call(ctx context.Context, r hook.Request) (hook.Decision, error)
}

// Config makes a Server.
type Config struct {
	Enroller *bootstrap.Enroller
	// Tenant whose authorities are shown, and that a hook vouches for.
	Tenant string
	// RA gives at least one. The first is the one that clients are told about; who
	// asked before it was renewed is answered with the one that the message is for.
	RA func(ctx context.Context) ([]*RA, error)
	// Hook decides about challenges that are not one of our one-time passwords; nil
	// refuses them.
	Hook Hook
	// List gives the revocation list that a certificate would be on; nil has none.
	List func(ctx context.Context, issuer []byte, serial ca.Serial) ([]byte, error)
	Log  *slog.Logger
	Now  func() time.Time
}

// Server speaks SCEP. It is safe for concurrent use.
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
	return s
}

// capabilities (RFC 8894, Section 3.5.2). What is not in this list is not taken
// either (A39). SHA-384 has no registered name; strongSwan 5.9.8 wants to see it
// before it uses SHA-256.
const capabilities = "AES\nPOSTPKIOperation\nRenewal\nSCEPStandard\nSHA-256\nSHA-384\nSHA-512\n"

// media types (RFC 8894, Sections 4.1.1, 4.2.1.2 and 4.3).
const (
	typeCapabilities = "text/plain"
	typeCACert       = "application/x-x509-ca-ra-cert"
	typeMessage      = "application/x-pki-message"
)

// ServeHTTP answers the operations (RFC 8894, Section 4.1).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, _ := strings.CutPrefix(r.URL.Path, Prefix)
	rest = strings.TrimSuffix(strings.TrimSuffix(rest, classic), "/")
	name := profile.Name(strings.TrimPrefix(rest, "/"))
	route := Prefix
	if name != "" {
		route = Prefix + "/{profile}"
	}
	web.SetRoute(r.Context(), route)
	if name != "" && name != profile.IDevID && name != profile.LDevID {
		web.Fail(w, r, bootstrap.ErrEnrolProfile.New("")) // A45
		return
	}
	operation := r.URL.Query().Get("operation")
	post := r.Method == http.MethodPost
	switch {
	case r.Method != http.MethodGet && !post, post && operation != "PKIOperation":
		w.Header().Set("Allow", http.MethodGet)
		web.Fail(w, r, web.ErrMethod.New(""))
	case operation == "GetCACaps":
		reply(w, typeCapabilities, []byte(capabilities))
	case operation == "GetCACert":
		s.caCert(w, r)
	case operation == "PKIOperation":
		s.pkiOperation(w, r, name)
	default:
		web.Fail(w, r, ErrOperation.New(""))
	}
}

func reply(w http.ResponseWriter, media string, body []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(body) // a device that is gone sends its request again
}

// caCert gives the RA's certificate, its issuers, and the authorities of the tenant
// (RFC 8894, Section 4.2.1.2).
func (s *Server) caCert(w http.ResponseWriter, r *http.Request) {
	ra, err := s.cfg.RA(r.Context())
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	all, err := s.cfg.Enroller.CACertificates(r.Context(), s.cfg.Tenant)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	var out [][]byte
	for _, c := range slices.Concat(ra[0].Chain, all) {
		if !slices.ContainsFunc(out, func(x []byte) bool { return bytes.Equal(x, c.Raw) }) {
			out = append(out, c.Raw)
		}
	}
	reply(w, typeCACert, degenerate(out, nil))
}

// pkiOperation takes a message and answers with one (RFC 8894, Section 4.3).
func (s *Server) pkiOperation(w http.ResponseWriter, r *http.Request, name profile.Name) {
	address := web.RemoteAddr(r).String()
	if err := s.cfg.Enroller.Blocked(address); err != nil {
		web.Fail(w, r, err)
		return
	}
	raw, err := readMessage(w, r)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	ra, err := s.cfg.RA(r.Context())
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	m, err := parse(raw)
	if err != nil {
		s.cfg.Enroller.Refused(address)
		web.Fail(w, r, err)
		return
	}
	by, content, why := s.handle(r.Context(), m, ra, name)
	if why != nil {
		switch fault.KindOf(why) {
		case fault.Unauthenticated, fault.Forbidden, fault.Invalid:
			s.cfg.Enroller.Refused(address)
		}
		web.FailIn(w, r, why, func(*fault.Fault) {})
	}
	out, err := answer(m, by, content, why)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	reply(w, typeMessage, out)
}

// readMessage reads a message: the body of a POST, or base64 in a GET, which clients
// encode in every way there is.
func readMessage(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method == http.MethodPost {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
		if err != nil {
			return nil, ErrMessage.Wrap(err, "It is too long, or broke off.")
		}
		return raw, nil
	}
	text := strings.NewReplacer(" ", "+", "-", "+", "_", "/", "\r", "", "\n", "", "=", "").Replace(r.URL.Query().Get("message"))
	if len(text) > base64.RawStdEncoding.EncodedLen(maxMessage) {
		return nil, ErrMessage.New("It is too long.")
	}
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, ErrMessage.New("It is not base64.")
	}
	return raw, nil
}

// handle works on a message: with which key, and what goes to the signer,
// encrypted.
func (s *Server) handle(ctx context.Context, m *message, all []*RA, name profile.Name) (*RA, []byte, error) {
	ra := all[0]
	if err := m.verify(); err != nil {
		return ra, nil, err
	}
	if !m.kind.known() {
		return ra, nil, ErrType.New("")
	}
	if m.content == nil {
		return ra, nil, ErrEnvelope.New("There is none.")
	}
	e, err := readEnvelope(m.content, all)
	if err != nil {
		return ra, nil, err
	}
	ra = e.to
	plain, err := e.open()
	if err != nil {
		return ra, nil, err
	}
	defer clear(plain) // it may hold a challenge
	content, err := s.work(ctx, m, plain, name)
	if err == nil {
		content, err = sealFor(m.signer, e.cipher, content)
	}
	return ra, content, err
}

// work does what a message asks for.
func (s *Server) work(ctx context.Context, m *message, plain []byte, name profile.Name) ([]byte, error) {
	who := bootstrap.Applicant{Certificate: m.signer}
	switch m.kind {
	case pkcsReq, renewalReq:
		req, err := csr.Parse(plain)
		if err != nil {
			// As what could not be opened: whoever repeats a stranger's message
			// with other octets learns nothing of its content.
			return nil, ErrEnvelope.New("")
		}
		return s.certify(ctx, m, req, name)
	case getCert:
		issuer, serial, err := readIssuerAndSerial(plain)
		if err != nil {
			return nil, err
		}
		r, err := s.cfg.Enroller.Find(ctx, who, func(raw []byte) bool {
			c, err := x509.ParseCertificate(raw)
			if err != nil || !bytes.Equal(c.RawIssuer, issuer) {
				return false
			}
			n, _ := ca.SerialFromInt(c.SerialNumber)
			return n == serial
		})
		if err != nil {
			return nil, err
		}
		return degenerate([][]byte{r.DER}, nil), nil
	case getCRL:
		issuer, serial, err := readIssuerAndSerial(plain)
		if err != nil {
			return nil, err
		}
		// A list is public, but large: it is not sent to whoever made a key.
		if _, err := s.cfg.Enroller.Attributes(ctx, who); err != nil {
			return nil, err
		}
		if s.cfg.List == nil {
			return nil, ErrList.New("")
		}
		list, err := s.cfg.List(ctx, issuer, serial)
		if err != nil {
			return nil, err
		}
		return degenerate(nil, [][]byte{list}), nil
	}
	return nil, ErrPoll.New("")
}

// certify answers PKCSReq and RenewalReq. Who signs with the key that is to be
// certified proves a challenge; who signs with another, its certificate. A renewal
// is always signed by a certificate.
func (s *Server) certify(ctx context.Context, m *message, req *csr.Request, name profile.Name) ([]byte, error) {
	a := bootstrap.Application{Applicant: bootstrap.Applicant{Certificate: m.signer}, Request: req, Profile: name}
	do, by := s.cfg.Enroller.Enrol, sha256.Sum256(m.signer.Raw)
	if m.kind == renewalReq {
		// With a birth certificate it is the first boot, which has other names.
		wanted, err := s.cfg.Enroller.Attributes(ctx, a.Applicant)
		if err != nil {
			return nil, err
		}
		if wanted.Subject != nil {
			do = s.cfg.Enroller.Reenrol
		}
	} else if bytes.Equal(m.signer.RawSubjectPublicKeyInfo, req.SPKI) {
		who, err := s.challenge(ctx, m, req, name)
		if err != nil {
			return nil, err
		}
		a.Applicant, by = who, sha256.Sum256([]byte(who.Password.ID))
		web.SetActor(ctx, "enrol-password:"+who.Password.ID)
	}
	// The identifier is the client's word; another's under the same name is another.
	if !s.transactions.Begin(append([]byte(m.transaction), by[:]...), req.SPKIHash, s.now()) {
		return nil, ErrTransaction.New("")
	}
	out, err := do(ctx, a)
	if err != nil {
		return nil, err
	}
	return degenerate([][]byte{out.Certificate}, nil), nil
}
