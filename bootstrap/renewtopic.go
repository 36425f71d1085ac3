package bootstrap

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca/csr"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/internal/strictjson"
)

// renewal is what a device publishes to [rotation.RenewTopic].
type renewal struct {
	CSR        string            `json:"csr"` // PEM
	Token      string            `json:"clientToken"`
	Parameters map[string]string `json:"parameters"` // of the registration's template, as at first boot
}

// renewed is the answer at …/accepted.
type renewed struct {
	Certificate string      `json:"certificatePem"`
	Chain       string      `json:"chainPem"`
	ID          string      `json:"certificateId"`
	Serial      string      `json:"serial"`
	NotAfter    time.Time   `json:"notAfter"`
	Status      string      `json:"status"`
	Renew       renewWindow `json:"renew"`
	Token       string      `json:"clientToken,omitempty"`
}

type renewWindow struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// notRenewed is the answer at …/rejected. The codes are those of the device door.
type notRenewed struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Retry   int64  `json:"retryAfterSeconds,omitempty"`
	Token   string `json:"clientToken,omitempty"`
}

const (
	maxRenewal = 64 << 10
	maxToken   = 64
)

// Topics are the reserved topics of renewal: a device asks for its next certificate
// over the connection of the one that it has. The topic is its own thing's, and no
// policy is asked.
func (s *Service) Topics() []fleet.Topic {
	return []fleet.Topic{{Filter: rotation.RenewFilter, Handle: s.handleRenewal}}
}

func (s *Service) handleRenewal(ctx context.Context, r fleet.Request) error {
	var in renewal
	err := strictjson.Decode(r.Payload, &in, strictjson.WithLimits(strictjson.Limits{Size: maxRenewal, Depth: 3}))
	if len(in.Token) > maxToken {
		in.Token, err = "", ErrRequest.New("The clientToken is longer than %d.", maxToken)
	}
	var out renewed
	if err == nil {
		out, err = s.renewOver(ctx, &r, &in)
	}
	if err == nil {
		out.Token = in.Token
		body, err := json.Marshal(out)
		r.Reply(r.Topic+"/accepted", body)
		return err
	}
	f := fault.From(err)
	no := notRenewed{Code: f.Code, Message: f.What, Retry: int64(f.RetryAfter.Seconds()), Token: in.Token}
	ours := f.Kind == fault.Internal || f.Kind == fault.Unavailable
	if !ours && f.Detail != "" {
		no.Message += " " + f.Detail // our own trouble is told without its details
	}
	body, merr := json.Marshal(no)
	if merr != nil {
		return merr
	}
	r.Reply(r.Topic+"/rejected", body)
	if ours {
		return err
	}
	s.log.InfoContext(ctx, "renewal refused", "tenant", r.Tenant, "thing", string(r.Thing), "certificate", r.Certificate, "err", err)
	return nil
}

// renewOver is [Service.Register] for a device that is connected: steps 1 to 3 are
// made of the connection. A binding to it is not possible, so the new key proves
// itself by connecting (S15), unless the CSR carries a nonce.
func (s *Service) renewOver(ctx context.Context, r *fleet.Request, in *renewal) (renewed, error) {
	ctx = lane.With(ctx, lane.Renewal)
	// 1. identify: the thing of the topic is that of the connection, and its
	//    certificate is one that the device door would let in now.
	if len(r.Levels) < 3 || r.Thing == "" || r.Levels[2] != string(r.Thing) {
		return renewed{}, ErrRenewThing.New("")
	}
	cert, err := s.cfg.Registry.Certificate(ctx, access.Scope{Tenant: r.Tenant}, r.Certificate)
	if err != nil {
		return renewed{}, err
	}
	if cert.Authority == "" {
		return renewed{}, ErrUnknown.New("")
	}
	parsed, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		return renewed{}, err
	}
	id, err := s.cfg.Gate.AdmitCertificate(ctx, parsed)
	if err != nil {
		return renewed{}, err
	}
	// 2. parse
	req, err := csr.Parse([]byte(strings.TrimSpace(in.CSR)))
	if err != nil {
		return renewed{}, err
	}
	if bytes.Equal(req.SPKI, parsed.RawSubjectPublicKeyInfo) {
		return renewed{}, ErrKeyReused.New("")
	}
	// 3. bind
	proven, err := s.nonces.bound(req.Challenge, nil, parsed.Raw, s.now())
	if err != nil {
		return renewed{}, err
	}
	id.way = &way{tool: "mqtt"}
	out, err := s.enter(ctx, &id, req, proven, in.Parameters)
	if err != nil {
		return renewed{}, err
	}
	c, err := x509.ParseCertificate(out.Certificate)
	if err != nil {
		return renewed{}, err
	}
	a := renewed{Certificate: pemOf(out.Certificate), ID: registry.CertificateID(out.Certificate), Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter.UTC(), Status: string(out.Status), Renew: windowOf(c)}
	for _, der := range out.Chain {
		a.Chain += pemOf(der)
	}
	return a, nil
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
