package est

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/web"
)

// Prefix is where the protocol lives (RFC 7030, Section 3.2.2).
const Prefix = "/.well-known/est/"

// Config makes a Server.
type Config struct {
	Enroller *bootstrap.Enroller
	// Tenant whose authorities are shown; devices come with their own.
	Tenant string
	Log    *slog.Logger
}

// Server speaks EST. It is safe for concurrent use.
type Server struct {
	cfg Config
	log *slog.Logger
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, log: cfg.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Door says what a listener asks of its clients.
type Door uint8

// The doors.
const (
	Certificates Door = iota // a client certificate, which the listener asked for
	Passwords                // a one-time password
)

// media types of RFC 7030 and RFC 5967.
const (
	typePKCS10   = "application/pkcs10"
	typeCerts    = "application/pkcs7-mime; smime-type=certs-only"
	typeCACerts  = "application/pkcs7-mime"
	typeAttrs    = "application/csrattrs"
	typePKCS8    = "application/pkcs8"
	encodingName = "Content-Transfer-Encoding"
)

// maxBody bounds a request: a CSR in base64 with line breaks.
const maxBody = csr.MaxSize/3*4 + csr.MaxSize/8

// operation is one of the protocol's.
type operation struct {
	method string
	do     func(s *Server, c *call) error
}

var operations = map[string]operation{
	"cacerts":        {http.MethodGet, (*Server).cacerts},
	"csrattrs":       {http.MethodGet, (*Server).csrattrs},
	"simpleenroll":   {http.MethodPost, (*Server).simpleenroll},
	"simplereenroll": {http.MethodPost, (*Server).simplereenroll},
	"serverkeygen":   {http.MethodPost, (*Server).serverkeygen},
}

// call is one request.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	door    Door
	profile profile.Name
}

// Handler serves Prefix at a door.
func (s *Server) Handler(door Door) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, door: door}
		if err := s.serve(c); err != nil {
			web.FailIn(w, r, err, func(f *fault.Fault) { c.fail(f) })
		}
	})
}

func (s *Server) serve(c *call) error {
	rest, ok := strings.CutPrefix(c.r.URL.Path, Prefix)
	if !ok {
		return web.ErrRoute.New("")
	}
	label, name, labelled := strings.Cut(rest, "/")
	if !labelled {
		label, name = "", rest
	}
	op, ok := operations[name]
	if !ok {
		return web.ErrRoute.New("")
	}
	route := Prefix + name
	if labelled {
		route = Prefix + "{label}/" + name
		if c.profile = profile.Name(label); c.profile != profile.IDevID && c.profile != profile.LDevID {
			return bootstrap.ErrEnrolProfile.New("") // A45
		}
	}
	web.SetRoute(c.r.Context(), route)
	if c.r.Method != op.method {
		c.w.Header().Set("Allow", op.method)
		return web.ErrMethod.New("")
	}
	address := web.RemoteAddr(c.r).String()
	if op.method == http.MethodPost {
		if err := s.cfg.Enroller.Blocked(address); err != nil {
			return err
		}
	}
	err := op.do(s, c)
	if k := fault.KindOf(err); k == fault.Unauthenticated || k == fault.Forbidden {
		s.cfg.Enroller.Refused(address)
	}
	return err
}

// cacerts is RFC 7030, Section 4.1. Nobody has to show anything for it.
func (s *Server) cacerts(c *call) error {
	certs, err := s.cfg.Enroller.CACertificates(c.r.Context(), s.cfg.Tenant)
	if err != nil {
		return err
	}
	var ders [][]byte
	for _, x := range certs {
		ders = append(ders, x.Raw)
	}
	return c.reply(typeCACerts, certsOnly(ders...))
}

// csrattrs is RFC 7030, Section 4.5.
func (s *Server) csrattrs(c *call) error {
	var who bootstrap.Applicant
	if c.door == Certificates && c.r.TLS != nil && len(c.r.TLS.PeerCertificates) > 0 {
		who.Certificate = c.r.TLS.PeerCertificates[0]
	}
	a, err := s.cfg.Enroller.Attributes(c.r.Context(), who)
	if err != nil {
		return err
	}
	body := attributes(&a)
	if body == nil {
		c.w.Header().Set("Cache-Control", "no-store")
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return c.reply(typeAttrs, body)
}

// simpleenroll is RFC 7030, Section 4.2.1.
func (s *Server) simpleenroll(c *call) error {
	a, err := s.application(c)
	if err != nil {
		return err
	}
	out, err := s.cfg.Enroller.Enrol(c.r.Context(), a)
	if err != nil {
		return err
	}
	return c.reply(typeCerts, certsOnly(out.Certificate))
}

// simplereenroll is RFC 7030, Section 4.2.2.
func (s *Server) simplereenroll(c *call) error {
	a, err := s.application(c)
	if err != nil {
		return err
	}
	out, err := s.cfg.Enroller.Reenrol(c.r.Context(), a)
	if err != nil {
		return err
	}
	return c.reply(typeCerts, certsOnly(out.Certificate))
}

// serverkeygen is RFC 7030, Section 4.4. The key is not encrypted a second time:
// the connection does that, and a request for more is refused.
func (s *Server) serverkeygen(c *call) error {
	a, err := s.application(c)
	if err != nil {
		return err
	}
	if asksForEncryption(a.Request) {
		return bootstrap.ErrEnrolKeys.New("A key that is encrypted a second time is not made here.")
	}
	out, err := s.cfg.Enroller.ServerKey(c.r.Context(), a)
	if err != nil {
		return err
	}
	defer clear(out.PrivateKey)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	for _, part := range []struct {
		media string
		der   []byte
	}{{typePKCS8, out.PrivateKey}, {typeCerts, certsOnly(out.Certificate)}} {
		p, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {part.media}, encodingName: {"base64"}})
		if err != nil {
			return err
		}
		if _, err := p.Write(armour(part.der)); err != nil {
			return err
		}
	}
	if err := m.Close(); err != nil {
		return err
	}
	defer clear(body.Bytes())
	c.w.Header().Set("Content-Type", "multipart/mixed; boundary="+m.Boundary())
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.Write(body.Bytes()) // a device that is gone has to ask anew
	return nil
}

// application reads who asks, before a body is read for nobody, and then what.
func (s *Server) application(c *call) (a bootstrap.Application, err error) {
	if c.r.TLS == nil {
		return a, bootstrap.ErrEnrolNone.New("")
	}
	a.Profile = c.profile
	switch c.door {
	case Certificates:
		if len(c.r.TLS.PeerCertificates) == 0 {
			return a, bootstrap.ErrNoCertificate.New("")
		}
		a.Certificate = c.r.TLS.PeerCertificates[0]
	default:
		user, password, ok := c.r.BasicAuth()
		if !ok {
			return a, bootstrap.ErrEnrolNone.New("")
		}
		if a.Applicant, err = s.cfg.Enroller.ByPassword(c.r.Context(), user, password); err != nil {
			return a, err
		}
		web.SetActor(c.r.Context(), "enrol-password:"+a.Password.ID)
	}
	if media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || media != typePKCS10 {
		return a, bootstrap.ErrRequest.New("Its content type is not %s.", typePKCS10)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err != nil {
		return a, bootstrap.ErrRequest.Wrap(err, "It is too long, or broke off.")
	}
	der, err := unarmour(raw)
	if err != nil {
		return a, err
	}
	if a.Request, err = csr.Parse(der); err != nil {
		return a, err
	}
	// RFC 7030, Section 3.5 for TLS 1.2, RFC 9266 for TLS 1.3.
	a.Bindings = []string{}
	if u := c.r.TLS.TLSUnique; len(u) > 0 {
		a.Bindings = append(a.Bindings, base64.StdEncoding.EncodeToString(u))
	}
	if b, err := bootstrap.Exporter(c.r.TLS.ExportKeyingMaterial).Challenge(); err == nil {
		a.Bindings = append(a.Bindings, b)
	}
	return a, nil
}

// unarmour reads base64 whatever its lines are, and does not care what the header
// of the transfer encoding says (RFC 8951, Sections 3.1 and 3.2.2).
func unarmour(text []byte) ([]byte, error) {
	text = bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, text)
	der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(der, text)
	if err != nil || n == 0 {
		return nil, bootstrap.ErrRequest.New("It is not a request in base64.")
	}
	return der[:n], nil
}

// armour is base64 in lines: clients that take one long line take these too, and
// some that read lines need them.
func armour(der []byte) []byte {
	const line = 64
	text := base64.StdEncoding.EncodeToString(der)
	out := make([]byte, 0, len(text)+len(text)/line*2+2)
	for len(text) > line {
		out = append(append(out, text[:line]...), '\r', '\n')
		text = text[line:]
	}
	return append(append(out, text...), '\r', '\n')
}

func (c *call) reply(media string, der []byte) error {
	h := c.w.Header()
	h.Set("Content-Type", media)
	h.Set(encodingName, "base64") // of no meaning since RFC 8951, and asked for by clients
	h.Set("Cache-Control", "no-store")
	c.w.Write(armour(der)) // a device that is gone asks again
	return nil
}

// fail is the protocol's error form: a status and a text (RFC 7030, Section 4.2.3).
func (c *call) fail(f *fault.Fault) {
	status := web.Status(f)
	h := c.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch status {
	case http.StatusUnauthorized:
		if c.door == Certificates {
			status = http.StatusForbidden // there is no password that would help at this door
		} else {
			h.Set("WWW-Authenticate", `Basic realm="hallmark est", charset="UTF-8"`)
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wait := max(f.RetryAfter, time.Second)
		h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	text := f.What
	if f.Kind != fault.Internal && f.Detail != "" {
		text += " " + f.Detail
	}
	body := fmt.Sprintf("%s\n%s\nCode: %s\nRequest: %s\n", text, f.Next, f.Code, web.RequestID(c.r.Context()))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		io.WriteString(c.w, body)
	}
}
