package trust

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/internal/strictjson"
)

// Parameters are those of a campaign of the kind update-trust.
type Parameters struct {
	// Add are the roots that devices get: certificates in PEM, or names of roots here,
	// which are written out when the campaign is made.
	Add []string `json:"add,omitempty"`
	// Remove are the roots that they lose: SHA-256 sums of the certificates, or names.
	Remove []string `json:"remove,omitempty"`
	// Requires leaves alone who has not confirmed to trust these roots: sums or names.
	Requires []string `json:"requires,omitempty"`
	Endpoint Endpoint `json:"endpoint,omitzero"`
	// ConnectAttempts in ConnectSeconds are what the device tries before it goes back;
	// 0 means 5 in 300.
	ConnectAttempts int `json:"connectAttempts,omitempty"`
	ConnectSeconds  int `json:"connectSeconds,omitempty"`
}

// Endpoint is a new place of the service; "" leaves it where it is.
type Endpoint struct {
	MQTT  string `json:"mqtt,omitempty"`  // HOST:PORT
	HTTPS string `json:"https,omitempty"` // https://HOST:PORT
}

const (
	maxRoots    = 12 // in what one campaign names, and in a bundle
	maxAttempts = 100
	maxSeconds  = 24 * 3600
	defaultSoak = time.Hour
)

func parse(raw json.RawMessage) (p Parameters, err error) {
	if len(raw) == 0 {
		return p, nil
	}
	if err := strictjson.Decode(raw, &p); err != nil {
		return p, ErrParameters.Wrap(err, "They are not the JSON object that is described.")
	}
	return p, nil
}

// certificates are those that are added; they were checked.
func (p *Parameters) certificates() (out []*x509.Certificate) {
	for _, text := range p.Add {
		if c, err := certificateOf(text); err == nil {
			out = append(out, c)
		}
	}
	return out
}

func (p *Parameters) added() (ids []string) {
	for _, c := range p.certificates() {
		ids = append(ids, fleet.RootID(c.Raw))
	}
	return ids
}

func certificateOf(text string) (*x509.Certificate, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || b.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("it is not one certificate in PEM")
	}
	return x509.ParseCertificate(b.Bytes)
}

// Check implements [campaign.Action].
func (s *Service) Check(ctx context.Context, tenant string, spec *campaign.Spec) error {
	p, err := parse(spec.Parameters)
	if err != nil {
		return err
	}
	if spec.Reason == campaign.NewBuild {
		return ErrParameters.New("Trust is not changed for the reason %s.", spec.Reason)
	}
	if p.ConnectAttempts < 0 || p.ConnectAttempts > maxAttempts || p.ConnectSeconds < 0 || p.ConnectSeconds > maxSeconds {
		return ErrParameters.New("A device tries 1 to %d times in 1 to %d seconds.", maxAttempts, maxSeconds)
	}
	if p.ConnectAttempts == 0 {
		p.ConnectAttempts = 5
	}
	if p.ConnectSeconds == 0 {
		p.ConnectSeconds = 300
	}
	if err := s.resolve(tenant, &p); err != nil {
		return err
	}
	if len(p.Add)+len(p.Remove) == 0 && p.Endpoint == (Endpoint{}) {
		return ErrParameters.New("Nothing is added, removed or moved.")
	}
	if err := p.Endpoint.check(); err != nil {
		return err
	}
	if err := s.keeps(ctx, tenant, &p); err != nil {
		return err
	}
	if spec.Soak == 0 {
		spec.Soak = defaultSoak
	}
	spec.Parameters, err = json.Marshal(p)
	return err
}

// resolve writes names of roots out.
func (s *Service) resolve(tenant string, p *Parameters) error {
	roots := s.Roots(tenant)
	named := func(name string) *Root {
		if i := slices.IndexFunc(roots, func(r Root) bool { return r.Name == name }); i >= 0 {
			return &roots[i]
		}
		return nil
	}
	for i, text := range p.Add {
		if r := named(text); r != nil {
			text = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Cert.Raw}))
		}
		c, err := certificateOf(text)
		switch {
		case err != nil:
			return ErrParameters.Wrap(err, "add: %.60q is neither the name of a root nor its certificate.", p.Add[i])
		case !c.BasicConstraintsValid || !c.IsCA || c.CheckSignatureFrom(c) != nil:
			return ErrParameters.New("add: %s is no root: it is no CA that signed itself.", c.Subject)
		case !s.clock().Before(c.NotAfter):
			return ErrParameters.New("add: %s ended.", c.Subject)
		}
		p.Add[i] = text
	}
	for _, list := range []*[]string{&p.Remove, &p.Requires} {
		for i, text := range *list {
			if r := named(text); r != nil {
				text = fleet.RootID(r.Cert.Raw)
			}
			if sum, err := hex.DecodeString(text); err != nil || len(sum) != 32 {
				return ErrParameters.New("%.60q is neither the name of a root nor the SHA-256 of its certificate.", text)
			}
			(*list)[i] = strings.ToLower(text)
		}
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if len(p.Add) > maxRoots || len(p.Remove) > maxRoots || len(p.Requires) > maxRoots {
		return ErrParameters.New("A campaign names at most %d roots.", maxRoots)
	}
	for _, id := range p.added() {
		if slices.Contains(p.Remove, id) {
			return ErrParameters.New("Root %.16s is added and removed.", id)
		}
	}
	return nil
}

func (e *Endpoint) check() error {
	if e.MQTT != "" {
		host, port, err := net.SplitHostPort(e.MQTT)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || perr != nil || n == 0 {
			return ErrParameters.New("endpoint.mqtt: %.80q is not HOST:PORT.", e.MQTT)
		}
	}
	if e.HTTPS != "" {
		u, err := url.Parse(e.HTTPS)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return ErrParameters.New("endpoint.https: %.80q is not https://HOST:PORT.", e.HTTPS)
		}
	}
	return nil
}

// keeps refuses to take a root from devices without which they accept no more what
// this service shows. Where the service moves, what is shown there is not known, and
// the devices look for themselves.
func (s *Service) keeps(ctx context.Context, tenant string, p *Parameters) error {
	if len(p.Remove) == 0 {
		return nil
	}
	left := p.certificates()
	for _, r := range s.Roots(tenant) {
		id := fleet.RootID(r.Cert.Raw)
		if !slices.Contains(p.Remove, id) && (len(p.Requires) == 0 || slices.Contains(p.Requires, id)) {
			left = append(left, r.Cert)
		}
	}
	shown, err := s.cfg.Shown(ctx, tenant)
	if err != nil {
		return err
	}
	for i := range shown {
		if shown[i].Server && p.Endpoint.MQTT != "" {
			continue
		}
		if !shown[i].Accepted(left, s.clock()) {
			return ErrCut.New("%s leads to none of the %d roots that are left.", shown[i].What, len(left))
		}
	}
	return nil
}
