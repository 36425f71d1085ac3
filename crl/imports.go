package crl

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/internal/der"
	"hallmark/internal/durable"
)

// ImportSource is a list of somebody else's CA.
type ImportSource struct {
	Name   string            // of a file name's letters
	Issuer *x509.Certificate // of the CA that signs it
	URL    string            // http:// or https://, or File
	File   string
	Every  time.Duration // 0 means an hour
	// Required refuses the CA's devices while there is no current list. Otherwise
	// the last list counts on after its end, with an alarm.
	Required bool
}

// ImportsConfig makes an [Imports].
type ImportsConfig struct {
	Sources []ImportSource
	// Dir keeps what was imported, so that a start knows it; "" keeps nothing.
	Dir string
	Log *slog.Logger
	Now func() time.Time
}

// Imports fetches the lists of other CAs, whose devices were brought along, and
// knows who is on them. A list is taken if the CA signed it, if its number is
// higher than the last one's, and if it is current. It is safe for concurrent use.
type Imports struct {
	log  *slog.Logger
	now  func() time.Time
	dir  string
	all  []*imported
	of   map[string][]*imported // by the issuer's name in DER
	mu   sync.RWMutex
	told []func(issuer *x509.Certificate, serial *big.Int, r Reason)

	Stats ImportStats
}

// ImportStats counts for the metrics.
type ImportStats struct{ Taken, Same, Failures atomic.Int64 }

type imported struct {
	ImportSource
	client *http.Client
	etag   string

	number   *big.Int
	raw      []byte
	next     time.Time
	fetched  time.Time
	failure  string
	failures int64
	revoked  map[string]Reason
	thisTime time.Time
}

// maxImport bounds a list that is fetched.
const maxImport = 64 << 20

// NewImports makes an Imports, with what an earlier run kept.
func NewImports(cfg ImportsConfig) (*Imports, error) {
	m := &Imports{dir: cfg.Dir, of: map[string][]*imported{}}
	m.log, m.now = defaults(cfg.Log, cfg.Now)
	seen := map[string]bool{}
	for _, s := range cfg.Sources {
		if s.Every == 0 {
			s.Every = time.Hour
		}
		if s.Name == "" || len(s.Name) > 64 || filepath.Base(s.Name) != s.Name || s.Name[0] == '.' || seen[s.Name] {
			return nil, ErrImportSource.New("The name %.80q is no file name, or there are two of it.", s.Name)
		}
		seen[s.Name] = true
		if s.Issuer == nil || (s.URL == "") == (s.File == "") {
			return nil, ErrImportSource.New("%s needs the CA's certificate, and either a URL or a file.", s.Name)
		}
		i := &imported{ImportSource: s}
		if s.URL != "" {
			if _, err := target(s.URL); err != nil {
				return nil, ErrImportSource.New("%s: %.200q is not a URL.", s.Name, s.URL)
			}
			c, err := client("")
			if err != nil {
				return nil, err
			}
			i.client = c
		}
		m.all = append(m.all, i)
		m.of[string(s.Issuer.RawSubject)] = append(m.of[string(s.Issuer.RawSubject)], i)
		if kept, err := os.ReadFile(m.file(i)); cfg.Dir != "" && err == nil {
			if _, err := m.take(i, kept, true); err != nil {
				m.log.Error("kept list of another CA cannot be used", "source", s.Name, "error", err)
			}
		}
	}
	return m, nil
}

func (m *Imports) file(i *imported) string { return filepath.Join(m.dir, i.Name+".crl") }

// OnRevoked adds a subscriber, which hears of every serial number that a list has
// and the one before it had not. Subscribe before [Imports.Run].
func (m *Imports) OnRevoked(f func(issuer *x509.Certificate, serial *big.Int, r Reason)) {
	m.mu.Lock()
	m.told = append(m.told, f)
	m.mu.Unlock()
}

// Run fetches every list at its time until ctx ends.
func (m *Imports) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, i := range m.all {
		wg.Go(func() {
			for {
				wait := i.Every
				if err := m.fetch(ctx, i); err != nil && ctx.Err() == nil {
					wait = min(wait, time.Minute)
				}
				if !sleep(ctx, wait) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// Fetch fetches every list once.
func (m *Imports) Fetch(ctx context.Context) (err error) {
	for _, i := range m.all {
		if e := m.fetch(ctx, i); e != nil && err == nil {
			err = e
		}
	}
	return err
}

func (m *Imports) fetch(ctx context.Context, i *imported) error {
	data, tag, err := m.get(ctx, i)
	if err == nil && data == nil { // nothing new
		m.Stats.Same.Add(1)
		m.mu.Lock()
		i.failure, i.fetched = "", m.now()
		m.mu.Unlock()
		return nil
	}
	changed := false
	if err == nil {
		changed, err = m.take(i, data, false)
	}
	m.mu.Lock()
	i.failure = ""
	if err != nil {
		i.failure = err.Error()
		i.failures++
	} else {
		i.etag, i.fetched = tag, m.now()
	}
	m.mu.Unlock()
	switch {
	case err != nil:
		m.Stats.Failures.Add(1)
		m.log.ErrorContext(ctx, "list of another CA not taken; the former one stays", "source", i.Name, "error", err)
	case changed:
		m.Stats.Taken.Add(1)
		m.log.InfoContext(ctx, "list of another CA taken", "source", i.Name, "number", i.number.String(), "entries", len(i.revoked))
	default:
		m.Stats.Same.Add(1)
	}
	return err
}

func (m *Imports) get(ctx context.Context, i *imported) (data []byte, etag string, err error) {
	if i.File != "" {
		f, err := os.Open(i.File)
		if err != nil {
			return nil, "", ErrImport.Wrap(err, "%s.", i.Name)
		}
		defer f.Close()
		data, err = limited(f)
		return data, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, i.URL, nil)
	if err != nil {
		return nil, "", ErrImport.Wrap(err, "%s.", i.Name)
	}
	m.mu.RLock()
	if i.etag != "" && i.next.After(m.now()) {
		r.Header.Set("If-None-Match", i.etag)
	}
	m.mu.RUnlock()
	a, err := i.client.Do(r)
	if err != nil {
		return nil, "", ErrImport.Wrap(err, "%s.", i.Name)
	}
	defer a.Body.Close()
	switch a.StatusCode {
	case http.StatusNotModified:
		return nil, "", nil
	case http.StatusOK:
		data, err = limited(a.Body)
		return data, a.Header.Get("ETag"), err
	}
	return nil, "", ErrImport.New("%s: the server answered %s.", i.Name, a.Status)
}

func limited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxImport+1))
	if err == nil && len(data) > maxImport {
		err = malformed(nil, "It has more than %d octets.", maxImport)
	}
	if err == nil && len(data) == 0 {
		err = malformed(nil, "It is empty.")
	}
	return data, err
}

// take checks a list and lets it count. kept says that it was checked by an
// earlier run, and may be over.
func (m *Imports) take(i *imported, data []byte, kept bool) (changed bool, err error) {
	if block, _ := pem.Decode(data); block != nil && block.Type == "X509 CRL" {
		data = block.Bytes
	}
	if bytes.Equal(data, i.raw) {
		return false, nil
	}
	l, err := x509.ParseRevocationList(data)
	if err != nil {
		return false, malformed(err, "%s.", i.Name)
	}
	if !bytes.Equal(l.RawIssuer, i.Issuer.RawSubject) {
		return false, ErrListUntrusted.New("%s names another issuer.", i.Name)
	}
	if err := l.CheckSignatureFrom(i.Issuer); err != nil {
		return false, ErrListUntrusted.Wrap(err, "%s.", i.Name)
	}
	if err := wholeList(l); err != nil {
		return false, err
	}
	now := m.now()
	switch {
	case l.Number == nil:
		return false, malformed(nil, "%s has no number (RFC 5280, Section 5.2.3).", i.Name)
	case l.NextUpdate.IsZero():
		return false, malformed(nil, "%s has no nextUpdate (RFC 5280, Section 5.1.2.5).", i.Name)
	case l.ThisUpdate.After(now.Add(skew)), !kept && !l.NextUpdate.After(now):
		return false, ErrListOld.New("%s runs from %s to %s.", i.Name, l.ThisUpdate.Format(timeForm), l.NextUpdate.Format(timeForm))
	case i.number != nil && (l.Number.Cmp(i.number) <= 0 || l.ThisUpdate.Before(i.thisTime)):
		return false, ErrListOld.New("%s has number %s; %s was taken before.", i.Name, l.Number, i.number)
	}
	revoked := make(map[string]Reason, len(l.RevokedCertificateEntries))
	for _, e := range l.RevokedCertificateEntries {
		revoked[string(e.SerialNumber.Bytes())] = Reason(e.ReasonCode)
	}
	if m.dir != "" && !kept {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return false, err
		}
		if err := durable.WriteFile(m.file(i), data, 0o644); err != nil {
			return false, err
		}
	}
	m.mu.Lock()
	old := i.revoked
	i.number, i.raw, i.next, i.thisTime, i.revoked = l.Number, data, l.NextUpdate, l.ThisUpdate, revoked
	told := m.told
	m.mu.Unlock()
	if kept {
		return true, nil
	}
	for s, r := range revoked {
		if _, known := old[s]; !known {
			for _, f := range told {
				f(i.Issuer, new(big.Int).SetBytes([]byte(s)), r)
			}
		}
	}
	return true, nil
}

// wholeList refuses what would read as complete and is not: a delta list, a list
// of others' certificates, of some reasons, or of no end entities; and critical
// extensions that nobody here knows.
func wholeList(l *x509.RevocationList) error {
	for _, e := range l.Extensions {
		switch {
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}):
			seq, err := der.Only(e.Value, der.TagSequence)
			if err != nil {
				return malformed(err, "Its issuing distribution point is malformed.")
			}
			for in := seq.Content; len(in) > 0; {
				f, rest, err := der.Next(in)
				if err != nil {
					return malformed(err, "Its issuing distribution point is malformed.")
				}
				if f.Tag != der.ContextConstructed(0) && f.Tag != der.Context(1) {
					return malformed(nil, "It is not about all certificates of devices.")
				}
				in = rest
			}
		case e.Critical:
			return malformed(nil, "It has the critical extension %s.", e.Id)
		}
	}
	for _, e := range l.RevokedCertificateEntries {
		for _, x := range e.Extensions {
			if x.Critical {
				return malformed(nil, "It has an entry with the critical extension %s.", x.Id)
			}
		}
	}
	return nil
}

// Check tells whether an imported list has a certificate. It fails where a list
// is required and there is no current one. A certificate whose issuer has no list
// here is not revoked.
func (m *Imports) Check(c *x509.Certificate) (r Reason, revoked bool, err error) {
	if m == nil {
		return 0, false, nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	serial := c.SerialNumber.Bytes()
	for _, i := range m.of[string(c.RawIssuer)] {
		if len(c.AuthorityKeyId) > 0 && len(i.Issuer.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, i.Issuer.SubjectKeyId) {
			continue
		}
		if got, on := i.revoked[string(serial)]; on && (!revoked || r == CertificateHold) {
			r, revoked = got, true
		}
		if i.Required && (i.number == nil || !i.next.After(m.now())) {
			err = ErrImportMissing.New("Source %s.", i.Name)
		}
	}
	if revoked {
		return r, true, nil
	}
	return 0, false, err
}

// ImportState is how a source is, for metrics and alarms.
type ImportState struct {
	Name       string
	Number     string
	Entries    int
	NextUpdate time.Time
	Fetched    time.Time
	Current    bool
	Required   bool
	Octets     int
	Failures   int64 // attempts since the start that gave no list
	Fault      string
}

// States tells how every source is.
func (m *Imports) States() []ImportState {
	if m == nil {
		return nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]ImportState, len(m.all))
	for k, i := range m.all {
		out[k] = ImportState{Name: i.Name, Entries: len(i.revoked), NextUpdate: i.next, Fetched: i.fetched, Current: i.next.After(m.now()), Required: i.Required, Octets: len(i.raw), Failures: i.failures, Fault: i.failure}
		if i.number != nil {
			out[k].Number = i.number.String()
		}
	}
	return out
}
