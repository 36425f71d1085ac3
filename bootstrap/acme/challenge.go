package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	lib "github.com/smallstep/certificates/acme"

	"hallmark/bootstrap/acme/state"
	"hallmark/provisioner/hook"
)

// authorization is RFC 8555, Section 7.5, and 7.5.2 for its end.
func (s *Server) authorization(c *call) error {
	o, at, err := s.find(c, 1)
	if err != nil {
		return err
	}
	if len(c.payload) > 0 {
		var r struct {
			Status string `json:"status"`
		}
		if err := c.body(&r); err != nil {
			return err
		}
		if r.Status != deactivated {
			return ErrMessage.New("An authorization can be deactivated, and nothing else.")
		}
		if o.Status == pending || o.Status == ready {
			o.Authorizations[at[0]].Status = deactivated
			o.Status = invalid
			if err := s.cfg.Store.UpdateOrder(c.r.Context(), &o); err != nil {
				return err
			}
		}
	}
	az := &o.Authorizations[at[0]]
	status := az.Status
	if status == pending && o.Status == invalid {
		status = "expired"
	}
	var challenges []any
	for j := range az.Challenges {
		challenges = append(challenges, c.showChallenge(&o, at[0], j))
	}
	return c.reply(http.StatusOK, map[string]any{"identifier": identifier{az.Type, az.Value}, "status": status, "expires": stamp(o.ExpiresAt), "challenges": challenges})
}

func (c *call) showChallenge(o *state.Order, i, j int) map[string]any {
	ch := &o.Authorizations[i].Challenges[j]
	out := map[string]any{"type": ch.Type, "url": c.base + "challenge/" + challengeID(o.ID, i, j), "status": ch.Status, "token": ch.Token}
	if ch.ValidatedAt != "" {
		out["validated"] = ch.ValidatedAt
	}
	if ch.Problem != nil {
		out["error"] = ch.Problem
	}
	return out
}

// challenge is RFC 8555, Section 7.5.1: the answer is looked at once, and at once.
func (s *Server) challenge(c *call) error {
	ctx := c.r.Context()
	o, at, err := s.find(c, 2)
	if err != nil {
		return err
	}
	i, j := at[0], at[1]
	az := &o.Authorizations[i]
	if len(c.payload) > 0 && o.Status == pending && az.Status == pending && az.Challenges[j].Status == pending {
		if _, err := s.bound(ctx, c.account); err != nil {
			return err
		}
		s.validate(ctx, c, &o, i, j)
		if err := s.settle(ctx, &o); err != nil {
			return err
		}
		if err := s.cfg.Store.UpdateOrder(ctx, &o); errors.Is(err, state.ErrChanged) {
			// Another answer was faster, and counts.
			if o, err = s.cfg.Store.Order(ctx, s.cfg.Tenant, o.ID); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	c.w.Header().Add("Link", "<"+c.base+"authz/"+authorizationID(o.ID, i)+`>;rel="up"`)
	return c.reply(http.StatusOK, c.showChallenge(&o, i, j))
}

// validate decides a challenge: it is valid or invalid afterwards, and with it the
// authorization. The library leaves some undecided, and some attestations make it
// fail or panic. [screen] refuses those we know; the rest ends here, since the
// library verifies them in this goroutine.
func (s *Server) validate(ctx context.Context, c *call, o *state.Order, i, j int) {
	az := &o.Authorizations[i]
	d := &desk{order: o}
	payload := c.payload
	if az.Challenges[j].Type == challengeDevice {
		var why reason
		d.format, payload, why = screen(c.payload)
		if why == "" {
			if d.roots = s.cfg.Attestation[d.format]; d.roots == nil {
				why = "The format is switched off."
			}
		}
		if why != "" {
			s.invalid(o, i, j, lib.ErrorBadAttestationStatementType, string(why))
			return
		}
	}
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		ctx := lib.NewProvisionerContext(lib.NewClientContext(ctx, &prober{ctx, s.cfg.Sites}), d)
		return d.libChallenge(i, j).Validate(ctx, d, c.key, payload)
	}()
	ch := &az.Challenges[j]
	if err != nil {
		s.log.ErrorContext(ctx, "acme challenge was not decided", "order", o.ID, "type", ch.Type, "error", err)
		kind := lib.ErrorUnauthorizedType
		if ch.Type == challengeDevice {
			kind = lib.ErrorBadAttestationStatementType
		}
		s.invalid(o, i, j, kind, "It was not decided.")
		return
	}
	if ch.Status != valid {
		ch.Status = invalid
		az.Status = invalid
	}
	s.log.InfoContext(ctx, "acme challenge answered", "order", o.ID, "type", ch.Type, "identifier", az.Value, "status", ch.Status)
}

// invalid ends a challenge, its authorization and so its order.
func (s *Server) invalid(o *state.Order, i, j int, kind lib.ProblemType, detail string) {
	e := lib.NewError(kind, "")
	if detail != "" {
		e.Detail = detail
	}
	az := &o.Authorizations[i]
	az.Status, az.Challenges[j].Status = invalid, invalid
	if raw, err := json.Marshal(e); err == nil {
		az.Challenges[j].Problem = raw
	}
}

// Limits of a probe (A58).
const (
	probeTime = 5 * time.Second
	probeSize = 64 << 10
)

// Check refuses what cannot be used.
func (t *Sites) Check() error {
	if len(t.Suffixes) == 0 {
		return ErrSites.New("There are no domains.")
	}
	for _, s := range t.Suffixes {
		if !hostname(s) {
			return ErrSites.New("%.80q is no domain in lower case with at least two labels.", s)
		}
	}
	if t.Port == 0 {
		t.Port = 80
	}
	d, err := hook.Dialer(t.Networks, t.Resolver, probeTime)
	if err != nil {
		return ErrSites.Wrap(err, "A network is not usable.")
	}
	t.dial = d
	return nil
}

// prober is the library's eyes on a site: allowed addresses only, checked after
// resolution, no redirect, no proxy, little time and little to read (A58).
type prober struct {
	ctx  context.Context // of the one request
	site *Sites
}

// Get implements [lib.Client].
func (p *prober) Get(text string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(p.ctx, probeTime)
	u, err := url.Parse(text)
	if err != nil || p.site == nil || u.Scheme != "http" || !p.site.Allows(u.Host) {
		cancel()
		return nil, errUnused
	}
	host := net.JoinHostPort(u.Host, strconv.Itoa(p.site.Port))
	t := &http.Transport{Proxy: nil, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return p.site.dial.DialContext(ctx, network, host)
		}}
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, text, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		r.StatusCode = http.StatusBadGateway // the library reads what a redirect says
	}
	r.Body = limited{io.LimitReader(r.Body, probeSize), r.Body, cancel}
	return r, nil
}

// limited is a body that ends.
type limited struct {
	io.Reader
	body   io.Closer
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (l limited) Close() error {
	defer l.cancel()
	return l.body.Close()
}

// LookupTxt implements [lib.Client].
func (p *prober) LookupTxt(name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, probeTime)
	defer cancel()
	if p.site == nil || !p.site.Allows(strings.TrimPrefix(name, "_acme-challenge.")) {
		return nil, errUnused
	}
	r := p.site.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	return r.LookupTXT(ctx, name+".") // never below a search domain
}

// TLSDial implements [lib.Client].
func (p *prober) TLSDial(string, string, *tls.Config) (*tls.Conn, error) { return nil, errUnused }
