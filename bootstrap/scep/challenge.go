package scep

import (
	"context"
	"encoding/base64"
	"errors"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/provisioner/hook"
)

// vouched is who a hook's challenges are made by, in records.
const vouched = "scep-hook"

// challenge finds what the challenge of a request stands for: one of our one-time
// passwords, or what the hook says. Either is for one unit and one profile, and
// for the first key that comes with it (A37).
func (s *Server) challenge(ctx context.Context, m *message, req *csr.Request, name profile.Name) (bootstrap.Applicant, error) {
	if req.Challenge == "" {
		return bootstrap.Applicant{}, bootstrap.ErrEnrolNone.New("")
	}
	who, err := s.cfg.Enroller.ByPassword(ctx, req.CommonName, req.Challenge)
	if s.cfg.Hook == nil || !errors.Is(err, bootstrap.ErrEnrolPassword) {
		return who, err
	}
	// A challenge that was vouched for once is spent, whatever the hook would say
	// now.
	known, lookup := s.cfg.Enroller.KnownPassword(ctx, req.Challenge)
	if lookup != nil {
		return bootstrap.Applicant{}, lookup
	}
	if known {
		return bootstrap.Applicant{}, err
	}
	return s.ask(ctx, m, req, name)
}

// ask lets the hook decide. What it answers in unit, profile and order stands above
// what was asked for; its challenge becomes a one-time password of ours, hashed.
func (s *Server) ask(ctx context.Context, m *message, req *csr.Request, name profile.Name) (bootstrap.Applicant, error) {
	d, err := s.cfg.Hook.Call(ctx, hook.Request{ClientID: req.CommonName, Parameters: map[string]string{
		"scepChallenge": req.Challenge, "scepTransactionId": m.transaction, "profile": string(name), "certificateRequest": base64.StdEncoding.EncodeToString(req.Raw),
	}})
	if fault.KindOf(err) == fault.Forbidden {
		return bootstrap.Applicant{}, ErrChallenge.Wrap(err, "")
	}
	if err != nil {
		return bootstrap.Applicant{}, err
	}
	r := bootstrap.PasswordRequest{Unit: d.Overrides["unit"], Profile: profile.Name(d.Overrides["profile"]), Order: d.Overrides["order"]}
	if r.Unit == "" {
		r.Unit = req.CommonName
	}
	if r.Profile == "" {
		r.Profile = name
	}
	if r.Profile == "" {
		r.Profile = profile.LDevID
	}
	by := access.Actor{Tenant: s.cfg.Tenant, Kind: access.KindService, Name: vouched}
	if err := s.cfg.Enroller.AdoptPassword(ctx, by, req.Challenge, r); err != nil {
		// Two requests may have asked at once; the challenge is one's.
		if known, _ := s.cfg.Enroller.KnownPassword(ctx, req.Challenge); !known {
			return bootstrap.Applicant{}, err
		}
	}
	return s.cfg.Enroller.ByPassword(ctx, req.CommonName, req.Challenge)
}
