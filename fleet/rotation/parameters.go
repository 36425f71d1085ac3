package rotation

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/internal/strictjson"
)

// Parameters are those of a campaign of the kind rotate-certificate.
type Parameters struct {
	// IssuedBefore leaves alone what was issued later; if neither it nor
	// ExpiresWithinSeconds is given, it is the time at which the campaign was made.
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	// ExpiresWithinSeconds leaves alone what ends later than so many seconds from now.
	ExpiresWithinSeconds int64 `json:"expiresWithinSeconds,omitempty"`
	// Authority leaves alone what another one issued.
	Authority string `json:"authority,omitempty"`
	// Algorithm is that of the new key; "" leaves it to the device.
	Algorithm string `json:"algorithm,omitempty"`
	// ConnectAttempts in ConnectSeconds are what the device tries with B before it
	// goes back to A; 0 means 5 in 300.
	ConnectAttempts int `json:"connectAttempts,omitempty"`
	ConnectSeconds  int `json:"connectSeconds,omitempty"`
}

var algorithms = []string{"", "P-256", "P-384", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519"}

const (
	maxWindow   = 20 * 366 * 24 * time.Hour
	maxAttempts = 100
	maxSeconds  = 24 * 3600
	defaultSoak = 24 * time.Hour
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

// Check implements [campaign.Action].
func (s *Service) Check(_ context.Context, _ string, spec *campaign.Spec) error {
	p, err := parse(spec.Parameters)
	if err != nil {
		return err
	}
	switch {
	case !slices.Contains(algorithms, p.Algorithm):
		return ErrParameters.New("The algorithm %.40q is none of %s.", p.Algorithm, strings.Join(algorithms[1:], ", "))
	case p.ExpiresWithinSeconds < 0 || p.ExpiresWithinSeconds > int64(maxWindow/time.Second):
		return ErrParameters.New("expiresWithinSeconds is 0 to 20 years.")
	case p.ConnectAttempts < 0 || p.ConnectAttempts > maxAttempts || p.ConnectSeconds < 0 || p.ConnectSeconds > maxSeconds:
		return ErrParameters.New("A device tries 1 to %d times in 1 to %d seconds.", maxAttempts, maxSeconds)
	case spec.Reason == campaign.NewBuild:
		return ErrParameters.New("A certificate is not rotated for the reason %s.", spec.Reason)
	case spec.Reason == campaign.Algorithm && p.Algorithm == "":
		return ErrParameters.New("The reason algorithm needs the new algorithm.")
	}
	if p.ConnectAttempts == 0 {
		p.ConnectAttempts = 5
	}
	if p.ConnectSeconds == 0 {
		p.ConnectSeconds = 300
	}
	if p.IssuedBefore.IsZero() && p.ExpiresWithinSeconds == 0 {
		p.IssuedBefore = s.clock()
	}
	p.IssuedBefore = p.IssuedBefore.UTC()
	if spec.Soak == 0 {
		spec.Soak = defaultSoak
	}
	spec.Parameters, err = json.Marshal(p)
	return err
}
