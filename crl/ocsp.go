package crl

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
)

// Status is what the permanent table knows of a serial number. The zero value
// was never reserved.
type Status struct {
	Issued  bool // it has a recorded certificate
	Revoked bool // revoked, void or on hold
	Reason  Reason
	At      time.Time
}

// StatusStore is what [OCSP] looks serial numbers up in.
type StatusStore interface {
	Status(ctx context.Context, authority string, serial ca.Serial) (Status, error)
}

// OCSPConfig makes an [OCSP].
type OCSPConfig struct {
	Store StatusStore
	CA    *ca.CA
	Set   *Set
	// Responder gives the key and certificate that answers for an authority are
	// signed with: delegated, never the CA key (S31).
	Responder func(ctx context.Context, authority string) (crypto.Signer, *x509.Certificate, error)
	// Validity of an answer; 0 means 12 hours, and more is cut to that (S31). An
	// answer is signed anew after half of it (A3).
	Validity time.Duration
	// MaxAge is for how long caches may keep an answer; 0 means 10 minutes, and
	// more is cut to that.
	MaxAge time.Duration
	// CacheSize is the number of answers kept; 0 means 20,000.
	CacheSize int
	// SignRate is how many signatures a second are made; beyond it and a burst of
	// one second the answer is tryLater. 0 means 2,000.
	SignRate int
	// EchoNonce answers a nonce (RFC 9654) with a signature of its own. Default:
	// nonces are ignored, so that answers can be kept (RFC 5019, S31).
	EchoNonce bool
	// Newest gives serial numbers of an authority that are likely to be asked for,
	// the newest first; their answers are signed before anybody asks. nil: none are.
	Newest func(ctx context.Context, authority string, n int) ([]ca.Serial, error)
	// Presign is how many of them; 0 means half of CacheSize.
	Presign int
	Log     *slog.Logger
	Now     func() time.Time
}

// OCSP answers who asks for the status of one certificate (RFC 6960).
type OCSP struct {
	cfg    OCSPConfig
	log    *slog.Logger
	now    func() time.Time
	cache  answers
	bucket bucket

	longest []string // Cache-Control
	expires atomic.Pointer[second]

	mu         sync.Mutex
	responders map[string]*responder
	ids        map[string]*issuerIDs

	Stats OCSPStats
}

// OCSPStats counts for the metrics.
type OCSPStats struct {
	Requests, Good, Revoked, Unknown, Malformed, Unauthorized, TryLater, Failures, Hits, Signed, Presigned atomic.Int64
}

const (
	maxOCSPRequest  = 16 << 10
	maxCertIDs      = 32
	maxOCSPValidity = 12 * time.Hour
	maxOCSPAge      = 10 * time.Minute
	maxOCSPWork     = 30 * time.Second // of an answer that is not ready
)

// NewOCSP makes an OCSP responder.
func NewOCSP(cfg OCSPConfig) *OCSP {
	o := &OCSP{cfg: cfg, responders: map[string]*responder{}, ids: map[string]*issuerIDs{}}
	o.log, o.now = defaults(cfg.Log, cfg.Now)
	if o.cfg.Validity <= 0 || o.cfg.Validity > maxOCSPValidity {
		o.cfg.Validity = maxOCSPValidity
	}
	if o.cfg.MaxAge <= 0 || o.cfg.MaxAge > maxOCSPAge {
		o.cfg.MaxAge = maxOCSPAge
	}
	if o.cfg.CacheSize <= 0 {
		o.cfg.CacheSize = 20_000
	}
	if o.cfg.SignRate <= 0 {
		o.cfg.SignRate = 2_000
	}
	if o.cfg.Presign <= 0 {
		o.cfg.Presign = o.cfg.CacheSize / 2
	}
	o.longest = []string{cacheControl(o.cfg.MaxAge)}
	o.cache.init(o.cfg.CacheSize)
	o.bucket = bucket{rate: float64(o.cfg.SignRate), tokens: float64(o.cfg.SignRate)}
	cfg.Set.OnChange(func(c Change) {
		switch {
		case c.Blocked:
		case c.Serial == (ca.Serial{}):
			o.cache.forgetAll()
		default:
			o.cache.forget(c.Serial)
		}
	})
	return o
}

// ServeHTTP answers POST /ocsp/AUTHORITY and GET /ocsp/AUTHORITY/BASE64 (RFC
// 6960, Appendix A). Faults of the protocol are answers of the protocol with
// status 200, as its clients expect.
func (o *OCSP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.Stats.Requests.Add(1)
	path, ok := strings.CutPrefix(r.URL.Path, "/ocsp/")
	authority, encoded, get := strings.Cut(path, "/")
	var in []byte
	switch {
	case !ok:
		http.NotFound(w, r)
		return
	case r.Method == http.MethodPost && (!get || encoded == ""):
		body, err := readRequest(w, r)
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			o.Stats.Malformed.Add(1)
			send(w, http.StatusRequestEntityTooLarge, refuse(malformedRequest))
			return
		}
		if err != nil {
			o.Stats.Malformed.Add(1)
			send(w, http.StatusBadRequest, refuse(malformedRequest))
			return
		}
		in = body
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && get && encoded != "":
		in = decodeGET(encoded)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		http.Error(w, "an OCSP request belongs after the authority's name, or into a POST", http.StatusBadRequest)
		return
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	a := o.answer(r.Context(), authority, in)
	if a.fault == unknownAuthority {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	switch {
	case a.until.IsZero():
		h.Set("Cache-Control", "no-store")
	case r.Method != http.MethodPost: // no cache keeps what was posted (RFC 9110, Section 9.3.3)
		now := o.now()
		age := min(max(a.until.Sub(now), 0), o.cfg.MaxAge)
		h["Cache-Control"] = o.cacheControl(age)
		h["Expires"] = []string{o.httpTime(now.Add(age))}
		h["Last-Modified"], h["Etag"] = a.modified, a.etag
		if r.Header.Get("If-None-Match") == a.etag[0] {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if a.length != nil {
		h["Content-Length"] = a.length
	}
	send(w, http.StatusOK, a.der)
}

// readRequest reads a POST; almost every one says how long it is.
func readRequest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if n := r.ContentLength; n > 0 && n <= maxOCSPRequest {
		body := make([]byte, n)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxOCSPRequest))
}

// cacheControl is the header for an age, which nearly always is the longest.
func (o *OCSP) cacheControl(age time.Duration) []string {
	if age == o.cfg.MaxAge {
		return o.longest
	}
	return []string{cacheControl(age)}
}

func cacheControl(age time.Duration) string {
	return "public, no-transform, must-revalidate, max-age=" + strconv.Itoa(int(age/time.Second))
}

// second is a time as HTTP writes it.
type second struct {
	unix int64
	text string
}

// httpTime formats a time, mostly the same as for the request before.
func (o *OCSP) httpTime(t time.Time) string {
	if s := o.expires.Load(); s != nil && s.unix == t.Unix() {
		return s.text
	}
	s := &second{t.Unix(), t.UTC().Format(http.TimeFormat)}
	o.expires.Store(s)
	return s.text
}

var (
	ocspType = []string{"application/ocsp-response"}
	noSniff  = []string{"nosniff"}
)

func send(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"], h["X-Content-Type-Options"] = ocspType, noSniff
	if h["Content-Length"] == nil {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	w.Write(body)
}

// decodeGET takes base64 as clients really send it: with the padding lost, with
// a plus sign that became a space, or in the URL alphabet.
func decodeGET(text string) []byte {
	if strings.Contains(text, "%") { // encoded twice
		if t, err := url.PathUnescape(text); err == nil {
			text = t
		}
	}
	if len(text) > maxOCSPRequest {
		return nil
	}
	text = strings.NewReplacer(" ", "+", "-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	out, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return out
}

// answer is a response. until is when caches must let go; zero: do not keep.
type answer struct {
	der         []byte
	etag        []string // header values
	modified    []string
	length      []string
	this, until time.Time
	fault       responseFault
}

// headers prepares what every reply with this answer says.
func (a *answer) headers() {
	a.etag, a.modified, a.length = []string{etag(a.der)}, []string{a.this.UTC().Format(http.TimeFormat)}, []string{strconv.Itoa(len(a.der))}
}

func (o *OCSP) refuse(f responseFault) answer {
	switch f {
	case malformedRequest:
		o.Stats.Malformed.Add(1)
	case unauthorized:
		o.Stats.Unauthorized.Add(1)
	case tryLater:
		o.Stats.TryLater.Add(1)
	}
	return answer{der: refuse(f), fault: f}
}

// answer handles one request.
func (o *OCSP) answer(ctx context.Context, authority string, in []byte) answer {
	a, err := o.cfg.CA.Authority(authority)
	if err != nil || a.Duty == profile.DutyRoot {
		return answer{fault: unknownAuthority}
	}
	req, err := parseRequest(in)
	if err != nil {
		return o.refuse(malformedRequest)
	}
	if !o.cfg.Set.Loaded() { // A28
		return o.refuse(tryLater)
	}
	ids, err := o.issuer(a)
	if err != nil {
		o.log.ErrorContext(ctx, "issuer has no identifiers", "authority", authority, "error", err)
		return o.refuse(tryLater)
	}
	mine := 0
	for i := range req.certs {
		if ids.match(&req.certs[i]) {
			mine++
		}
	}
	if mine == 0 { // RFC 5019, Section 2.2.3: not about certificates of this issuer
		return o.refuse(unauthorized)
	}
	var nonce []byte
	if o.cfg.EchoNonce {
		nonce = req.nonce
	}
	single := len(req.certs) == 1 && nonce == nil
	now := o.now()
	var room [256]byte
	key := room[:0]
	if single {
		key = append(append(append(key, authority...), 0), req.certs[0].raw...)
		if got, ok := o.cache.get(key, now); ok {
			o.Stats.Hits.Add(1)
			o.count(got.status)
			return got.answer
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxOCSPWork)
	defer cancel()
	r, err := o.responder(ctx, a, now)
	if err != nil {
		o.Stats.Failures.Add(1)
		o.log.ErrorContext(ctx, "no OCSP responder", "authority", authority, "error", err)
		return o.refuse(tryLater)
	}
	if !o.bucket.take(now) {
		return o.refuse(tryLater)
	}
	generation := o.cache.generation()
	this := now.Add(-time.Minute).UTC().Truncate(time.Second) // for clocks that are a little behind
	until := this.Add(o.cfg.Validity)
	if r.cert.NotAfter.Before(until) {
		until = r.cert.NotAfter
	}
	out := answer{this: this, until: until}
	statuses := make([]certStatus, len(req.certs))
	for i := range req.certs {
		id := &req.certs[i]
		st := certStatus{kind: statusUnknown}
		if ids.match(id) {
			if st, err = o.status(ctx, authority, id); err != nil {
				o.Stats.Failures.Add(1)
				o.log.ErrorContext(ctx, "status cannot be read", "authority", authority, "error", err)
				return o.refuse(tryLater)
			}
		}
		if st.kind == statusUnknown {
			out.until = time.Time{} // it may be issued any moment
		}
		o.count(st.kind)
		statuses[i] = st
	}
	if nonce != nil {
		out.until = time.Time{}
	}
	out.der, err = r.sign(req.certs, statuses, now, this, until, nonce)
	if err != nil {
		o.Stats.Failures.Add(1)
		o.log.ErrorContext(ctx, "OCSP answer not signed", "authority", authority, "error", err)
		return o.refuse(tryLater)
	}
	out.headers()
	o.Stats.Signed.Add(1)
	if single && !out.until.IsZero() {
		serial, _ := req.certs[0].ours()
		o.cache.put(string(key), cached{answer: out, status: statuses[0].kind, renew: this.Add(until.Sub(this) / 2)}, serial, generation)
	}
	return out
}

func (o *OCSP) count(k statusKind) {
	switch k {
	case statusGood:
		o.Stats.Good.Add(1)
	case statusRevoked:
		o.Stats.Revoked.Add(1)
	default:
		o.Stats.Unknown.Add(1)
	}
}

// status reads the table, and believes the set where that is stricter: it knows
// what is on a signed list and what its authority's root revoked. Reserved
// without a certificate is unknown until it is void; never good (A7).
func (o *OCSP) status(ctx context.Context, authority string, id *certID) (certStatus, error) {
	serial, ok := id.ours()
	if !ok {
		return certStatus{kind: statusUnknown}, nil
	}
	if reason, at, revoked := o.cfg.Set.Revoked(authority, serial); revoked {
		return certStatus{statusRevoked, reason, at}, nil
	}
	s, err := o.cfg.Store.Status(ctx, authority, serial)
	switch {
	case err != nil:
		return certStatus{}, err
	case s.Revoked:
		return certStatus{statusRevoked, s.Reason, s.At}, nil
	case s.Issued:
		return certStatus{kind: statusGood}, nil
	}
	return certStatus{kind: statusUnknown}, nil
}

// issuerIDs are the hashes that name an authority in a request.
type issuerIDs struct {
	nameSHA1, keySHA1     [sha1.Size]byte
	nameSHA256, keySHA256 [sha256.Size]byte
}

func (o *OCSP) issuer(a ca.Info) (*issuerIDs, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := a.Name + "\x00" + string(a.Cert.SubjectKeyId)
	if ids := o.ids[key]; ids != nil {
		return ids, nil
	}
	bits, err := keyBits(a.Cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	ids := &issuerIDs{sha1.Sum(a.Cert.RawSubject), sha1.Sum(bits), sha256.Sum256(a.Cert.RawSubject), sha256.Sum256(bits)}
	o.ids[key] = ids
	return ids, nil
}

func (ids *issuerIDs) match(id *certID) bool {
	switch id.hash {
	case crypto.SHA1:
		return bytes.Equal(id.nameHash, ids.nameSHA1[:]) && bytes.Equal(id.keyHash, ids.keySHA1[:])
	case crypto.SHA256:
		return bytes.Equal(id.nameHash, ids.nameSHA256[:]) && bytes.Equal(id.keyHash, ids.keySHA256[:])
	}
	return false
}

// responder is a checked delegated responder.
type responder struct {
	key    crypto.Signer
	cert   *x509.Certificate
	issuer []byte // certificate of the authority that it was checked against
	id     []byte // SHA-1 of its public key: ResponderID byKey
	sigAlg []byte
	hash   crypto.Hash
}

// responder asks for the responder and checks a new one: it must be delegated by
// this very authority (RFC 6960, Section 4.2.2.2) and hold the key it names.
func (o *OCSP) responder(ctx context.Context, a ca.Info, now time.Time) (*responder, error) {
	key, cert, err := o.cfg.Responder(ctx, a.Name)
	if err != nil {
		return nil, err
	}
	if key == nil || cert == nil {
		return nil, ErrResponder.New("%s has none.", a.Name)
	}
	if !now.Before(cert.NotAfter) || now.Before(cert.NotBefore) {
		return nil, ErrResponder.New("That of %s runs from %s to %s.", a.Name, cert.NotBefore.Format(timeForm), cert.NotAfter.Format(timeForm))
	}
	o.mu.Lock()
	r := o.responders[a.Name]
	o.mu.Unlock()
	if r != nil && r.cert.Equal(cert) && r.key == key && bytes.Equal(r.issuer, a.Cert.Raw) {
		return r, nil
	}
	if err := cert.CheckSignatureFrom(a.Cert); err != nil {
		return nil, ErrResponder.Wrap(err, "It was not issued by %s.", a.Name)
	}
	signing := false
	for _, u := range cert.ExtKeyUsage {
		signing = signing || u == x509.ExtKeyUsageOCSPSigning
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !signing || cert.IsCA || !ok || !pub.Equal(cert.PublicKey) {
		return nil, ErrResponder.New("It is not a delegated responder, or its key is another one.")
	}
	if ck, ok := a.Cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && ck.Equal(cert.PublicKey) {
		return nil, ErrResponder.New("It has the key of the CA.")
	}
	bits, err := keyBits(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	id := sha1.Sum(bits)
	r = &responder{key: key, cert: cert, issuer: a.Cert.Raw, id: id[:]}
	if r.sigAlg, r.hash, err = profile.SignatureAlgorithm(cert.PublicKey); err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.responders[a.Name] = r
	o.mu.Unlock()
	return r, nil
}

// sign builds, signs and verifies a response.
func (r *responder) sign(ids []certID, statuses []certStatus, now, this, next time.Time, nonce []byte) ([]byte, error) {
	tbs := appendResponseData(nil, r.id, ids, statuses, now, this, next, nonce)
	digest := tbs
	if r.hash != 0 {
		h := r.hash.New()
		h.Write(tbs)
		digest = h.Sum(nil)
	}
	sig, err := r.key.Sign(rand.Reader, digest, r.hash)
	if err != nil {
		return nil, err
	}
	ok := false
	switch k := r.cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, r.hash, digest, sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, digest, sig)
	}
	if !ok {
		return nil, ErrResponder.New("Its signature does not verify.")
	}
	return appendResponse(tbs, r.sigAlg, sig, r.cert.Raw), nil
}
