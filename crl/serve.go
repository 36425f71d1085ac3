package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func etag(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
}

// Handler serves GET and HEAD of /crl/AUTHORITY/SHARD.crl and /ca/AUTHORITY.cer
// (RFC 5280, Sections 4.2.1.13 and 4.2.2.1), with validators for caches.
func (p *Publisher) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Stats.Requests.Add(1)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/"); {
		case len(parts) == 3 && parts[0] == "crl" && p.cfg.Filters.serve(w, r, strings.Join(parts, "/")):
		case len(parts) == 3 && parts[0] == "crl":
			p.serveList(w, r, parts[1], parts[2])
		case len(parts) == 2 && parts[0] == "ca":
			p.serveCertificate(w, r, parts[1])
		default:
			http.NotFound(w, r)
		}
	})
}

func (p *Publisher) serveList(w http.ResponseWriter, r *http.Request, authority, file string) {
	text, isDelta := strings.CutSuffix(file, deltaSuffix)
	ok := isDelta
	if !ok {
		text, ok = strings.CutSuffix(file, ".crl")
	}
	shard, err := strconv.Atoi(text)
	if !ok || err != nil || shard < 0 || strconv.Itoa(shard) != text {
		http.NotFound(w, r)
		return
	}
	l := p.current(listID{authority, shard})
	if isDelta && l != nil && l.delta == nil { // of the first list there is none
		http.NotFound(w, r)
		return
	}
	if l == nil {
		if a, err := p.cfg.CA.Authority(authority); err == nil && shard < max(a.Shards, 1) {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "the list is not there yet", http.StatusServiceUnavailable)
			return
		}
		http.NotFound(w, r)
		return
	}
	age := min(max(l.NextUpdate.Sub(p.now()), 0), p.cfg.MaxAge)
	h := w.Header()
	h.Set("Content-Type", "application/pkix-crl")
	h.Set("Cache-Control", "public, no-transform, max-age="+strconv.Itoa(int(age/time.Second)))
	h.Set("Expires", p.now().Add(age).UTC().Format(http.TimeFormat))
	if isDelta {
		h.Set("ETag", l.delta.etag)
		http.ServeContent(w, r, "", l.delta.thisUpdate, bytes.NewReader(l.delta.der))
		return
	}
	h.Set("ETag", l.etag)
	http.ServeContent(w, r, "", l.ThisUpdate, l.reader())
}

// serveCertificate serves NAME.cer, the certificate of an authority or a cross
// certificate, and NAME.pem, what comes after a certificate of an authority in a
// chain: itself and the cross certificates of its root; of a root itself and those
// by which other roots certify it.
func (p *Publisher) serveCertificate(w http.ResponseWriter, r *http.Request, file string) {
	name, isChain := strings.CutSuffix(file, ".pem")
	ok := isChain
	if !ok {
		name, ok = strings.CutSuffix(file, ".cer")
	}
	var c *x509.Certificate
	a, err := p.cfg.CA.Authority(name)
	if err == nil {
		c = a.Cert
	} else if x, xerr := p.cfg.CA.Cross(name); xerr == nil && !isChain {
		c = x.Cert
	}
	if !ok || c == nil {
		http.NotFound(w, r)
		return
	}
	body, kind, age, since := c.Raw, "application/pkix-cert", "86400", c.NotBefore
	if isChain {
		body, kind, age, since = nil, "application/pem-certificate-chain", "300", time.Time{}
		for _, c := range append([]*x509.Certificate{c}, p.cfg.CA.CrossesOf(c)...) {
			body = append(body, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "public, no-transform, max-age="+age)
	h.Set("ETag", etag(body))
	http.ServeContent(w, r, "", since, bytes.NewReader(body))
}
