package ota

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/ota/manifest"
)

const (
	urlPath   = "/firmware/v1/"
	urlDomain = "firmware url v1"
	// Pattern is the route of images, on the device door.
	Pattern = "GET " + urlPath + "{class}/{version}"
)

func pathOf(class string, v manifest.Version) string { return urlPath + class + "/" + string(v) }

// Sign makes an address of an image good for one device and until a time. It is the
// [hallmark/fleet/jobs.Signer] of the service.
func (s *Service) Sign(ctx context.Context, tenant string, thing fleet.ThingName, address string, expires time.Time) (string, error) {
	rest, ok := strings.CutPrefix(address, s.door()+urlPath)
	class, version, two := strings.Cut(rest, "/")
	if s.door() == "" || !ok || !two {
		return "", ErrSignURL.New("%.200q.", address)
	}
	v, err := manifest.ParseVersion(version)
	if err == nil {
		_, err = s.Get(ctx, access.Scope{Tenant: tenant}, class, v)
	}
	switch {
	case errors.Is(err, ErrUnknown), errors.Is(err, manifest.ErrVersion):
		return "", ErrSignURL.New("%.200q.", address)
	case err != nil:
		return "", err
	}
	end := strconv.FormatInt(expires.Unix(), 10)
	q := url.Values{"tenant": {tenant}, "thing": {string(thing)}, "expires": {end}}
	q.Set("signature", base64.RawURLEncoding.EncodeToString(s.mac(tenant, class, version, string(thing), end)))
	return address + "?" + q.Encode(), nil
}

func (s *Service) mac(fields ...string) []byte {
	raw := make([][]byte, len(fields))
	for i, f := range fields {
		raw[i] = []byte(f)
	}
	return s.cfg.Key(urlDomain, raw...)
}

// Handler serves images, whole and in ranges (RFC 9110, Section 14), to whoever has
// an address that [Service.Sign] made. fail answers what is wrong.
func (s *Service) Handler(fail func(w http.ResponseWriter, r *http.Request, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The context of a request ends too early as well; a store may read with it.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		stall := time.AfterFunc(pieceTime, cancel)
		defer stall.Stop()
		b, m, err := s.asked(r.WithContext(ctx))
		if err != nil {
			fail(w, r, err)
			return
		}
		defer b.Close()
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("ETag", `"`+m.DigestHex()+`"`)
		h.Set("Cache-Control", "private, no-transform, max-age=3600")
		http.ServeContent(patient{w, http.NewResponseController(w), stall}, r, "", time.Time{}, io.NewSectionReader(b, 0, m.Size))
	})
}

// patient lets an image take as long as it needs: a server's limit on the time of an
// answer would cut every image off that a slow line does not carry within it. Each piece
// has a limit of its own, so that neither one who does not read nor a store that does
// not answer is waited for without an end.
type patient struct {
	http.ResponseWriter
	conn  *http.ResponseController
	stall *time.Timer
}

const pieceTime = 60 * time.Second

// Write gives a piece its time.
func (p patient) Write(b []byte) (int, error) {
	p.stall.Reset(pieceTime)
	if err := p.conn.SetWriteDeadline(time.Now().Add(pieceTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// asked opens the image that a request may have. What is wrong with an address is not
// said: whoever has a good one does not need it.
func (s *Service) asked(r *http.Request) (Blob, *manifest.Manifest, error) {
	q := r.URL.Query()
	class, version, tenant := r.PathValue("class"), r.PathValue("version"), q.Get("tenant")
	got, err := base64.RawURLEncoding.DecodeString(q.Get("signature"))
	if err != nil || !hmac.Equal(got, s.mac(tenant, class, version, q.Get("thing"), q.Get("expires"))) {
		return nil, nil, ErrURL.New("")
	}
	end, err := strconv.ParseInt(q.Get("expires"), 10, 64)
	if err != nil || s.now().Unix() >= end {
		return nil, nil, ErrURL.New("Its time is over.")
	}
	b, m, err := s.open(r.Context(), tenant, class, manifest.Version(version))
	if errors.Is(err, ErrState) || errors.Is(err, ErrUnknown) {
		return nil, nil, ErrURL.New("The firmware is not released any more.")
	}
	return b, m, err
}

// open opens a released image.
func (s *Service) open(ctx context.Context, tenant, class string, v manifest.Version) (Blob, *manifest.Manifest, error) {
	_, m, err := s.released(ctx, tenant, class, v)
	if err != nil {
		return nil, nil, err
	}
	b, err := s.cfg.Blobs.Open(ctx, tenant, m.DigestHex())
	if err != nil {
		return nil, nil, err
	}
	if b.Size() != m.Size {
		b.Close()
		return nil, nil, ErrBlob.New("%s %s has %d octets and not %d.", class, v, b.Size(), m.Size)
	}
	return b, m, nil
}
