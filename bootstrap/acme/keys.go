package acme

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/acme/state"
	"hallmark/ca/profile"
	"hallmark/provisioner"
)

// Limits of external account keys.
const (
	KeyLife    = 7 * 24 * time.Hour // the usual time in which an account has to be made
	MaxKeyLife = 90 * 24 * time.Hour
	maxNames   = 1000
)

// KeyRequest asks for an external account key.
type KeyRequest struct {
	// Profile is idevid or ldevid for devices, site-server for servers.
	Profile profile.Name
	Order   string // that a birth certificate counts on
	// Names are the identifiers of devices, as IDENTIFIER or IDENTIFIER=UNIT, or host
	// names; with a dot before it a name stands for everything below.
	Names []string
	Life  time.Duration // 0 means [KeyLife]
}

// names reads and checks what a key allows.
func (s *Server) names(ctx context.Context, tenant string, r *KeyRequest) (out []state.Name, err error) {
	if n := len(r.Names); n == 0 || n > maxNames {
		return nil, ErrKeyConfig.New("There are %d names; 1 to %d are possible.", n, maxNames)
	}
	for _, text := range r.Names {
		var n state.Name
		n.Identifier, n.Unit, _ = strings.Cut(text, "=")
		if slices.ContainsFunc(out, func(o state.Name) bool { return o.Identifier == n.Identifier }) {
			return nil, ErrKeyConfig.New("%.80q is there twice.", n.Identifier)
		}
		switch r.Profile {
		case profile.Site:
			name := strings.TrimPrefix(n.Identifier, ".")
			if n.Unit != "" || !hostname(name) || r.Order != "" {
				return nil, ErrKeyConfig.New("%.80q is no host name in lower case; servers have no unit and no order.", text)
			}
			if s.cfg.Sites == nil || !s.cfg.Sites.Allows(name) {
				return nil, ErrKeyConfig.New("%.80q is in none of the domains of enrolment.acme.sites.", name)
			}
		case profile.IDevID, profile.LDevID:
			if provisioner.ValidUnit(n.Identifier) != nil {
				return nil, ErrKeyConfig.New("%.80q is not 1 to 64 characters of A-Z a-z 0-9 . _ : -", n.Identifier)
			}
			unit := n.Unit
			if unit == "" {
				unit = n.Identifier
			}
			if err := s.cfg.Enroller.CheckVoucher(ctx, bootstrap.Voucher{Tenant: tenant, Unit: unit, Profile: r.Profile, Order: r.Order}); err != nil {
				return nil, err
			}
		default:
			return nil, ErrKeyConfig.New("The profile %.40q is none of idevid, ldevid and site-server.", string(r.Profile))
		}
		out = append(out, n)
	}
	return out, nil
}

var letters = base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding) // none that look alike

// CreateKey makes an external account key. Whether the actor may is for the caller
// to know. The secret is shown once.
func (s *Server) CreateKey(ctx context.Context, by access.Actor, r KeyRequest) (state.Key, bootstrap.Secret, error) {
	if by.Tenant != s.cfg.Tenant {
		return state.Key{}, "", ErrOff.New("For this tenant.") // nobody could use it
	}
	if r.Life == 0 {
		r.Life = KeyLife
	}
	if r.Life < time.Minute || r.Life > MaxKeyLife {
		return state.Key{}, "", ErrKeyConfig.New("A life of %s is not one minute to 90 days.", r.Life)
	}
	names, err := s.names(ctx, by.Tenant, &r)
	if err != nil {
		return state.Key{}, "", err
	}
	var raw [10]byte
	rand.Read(raw[:])
	now := s.instant()
	k := state.Key{Tenant: by.Tenant, ID: letters.EncodeToString(raw[:]), Profile: r.Profile, Order: r.Order, Names: names, CreatedBy: by.Name, CreatedAt: now, ExpiresAt: now.Add(r.Life)}
	if err := s.cfg.Store.CreateKey(ctx, k); err != nil {
		return state.Key{}, "", err
	}
	s.log.InfoContext(ctx, "acme key made", "key", k.ID, "profile", string(k.Profile), "order", k.Order, "names", len(k.Names), "by", by.String())
	return k, bootstrap.Secret(encode(s.secret(k.ID))), nil
}

// secret of a key is made from its id under the key outside the database.
func (s *Server) secret(id string) []byte { return s.cfg.Enroller.Derive("acme/key/" + id) }

// Keys lists the keys of a tenant.
func (s *Server) Keys(ctx context.Context, tenant string) ([]state.Key, error) {
	return s.cfg.Store.Keys(ctx, tenant)
}

// RevokeKey ends a key, and the account that was made with it. Certificates stay.
func (s *Server) RevokeKey(ctx context.Context, by access.Actor, id string) (state.Key, error) {
	k, err := s.cfg.Store.RevokeKey(ctx, by.Tenant, id, by.Name, s.instant())
	if err == nil {
		s.log.InfoContext(ctx, "acme key revoked", "key", id, "account", k.Account, "by", by.String())
	}
	return k, err
}
