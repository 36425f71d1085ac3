package main

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca/profile"
)

// enrolAPI answers the administration of enrolment.
type enrolAPI struct{ *backend }

// CreateEnrolPassword implements [web.Enrolment].
func (b enrolAPI) CreateEnrolPassword(ctx context.Context, by access.Actor, r adminapi.EnrolPasswordRequest) (adminapi.EnrolPassword, error) {
	p, secret, err := b.enrol.CreatePassword(ctx, by, bootstrap.PasswordRequest{Unit: r.Unit, Profile: profile.Name(r.Profile), Order: r.Order, Life: time.Duration(r.Minutes) * time.Minute})
	if err != nil {
		return adminapi.EnrolPassword{}, err
	}
	return adminapi.EnrolPassword{Reference: p.ID, Unit: p.Unit, Profile: string(p.Profile), Order: p.Order, Password: secret.Reveal(), ExpiresAt: p.ExpiresAt}, nil
}
