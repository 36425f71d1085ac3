package crl

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
)

const timeForm = time.RFC3339

// Revocation is a row of the permanent table.
type Revocation struct {
	Authority  string
	Serial     ca.Serial
	Tenant     string
	Holder     string // folded
	Shard      int
	Reason     Reason
	At         time.Time
	By         string
	Note       string
	NotAfter   time.Time
	ReleasedAt time.Time // of a hold; zero while it is revoked
	Leaf       int64     // of the newest event about it
}

// Story is what revocation needs to know of a reserved serial number.
type Story struct {
	ID                      int64 // of its reservation
	Tenant, Account, Holder string
	Profile                 string
	Authority               string
	Serial                  ca.Serial
	SPKI                    [32]byte
	Shard                   int
	NotAfter                time.Time
	Issued                  bool        // it has a recorded certificate
	Revocation              *Revocation // nil if it never was revoked
}

// Store is what [Service] persists in. Contract: every method joins the
// transaction of Atomic; each change appends its log leaf in the same
// transaction and becomes visible with it.
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	// Story finds a serial number of a tenant; a NotFound fault if there is none.
	Story(ctx context.Context, tenant, authority string, serial ca.Serial) (Story, error)
	// Stories lists the serial numbers of a holder that end after a time.
	Stories(ctx context.Context, tenant, holder string, after time.Time) ([]Story, error)
	// Revoke writes a revocation: a row, or new contents of a row that is
	// released or weaker. A serial number without a certificate becomes void.
	Revoke(ctx context.Context, s Story, r Reason, at time.Time, by, note string) error
	// Release ends a hold.
	Release(ctx context.Context, s Story, at time.Time, by, note string) error
	// MarkCompromised refuses a public key from now on, for every profile.
	MarkCompromised(ctx context.Context, s Story) error
	// Block stops issuance to a holder; blocking twice changes nothing. It tells
	// whether it is new.
	Block(ctx context.Context, tenant, holder string, at time.Time, by, note string) (bool, error)
	// RevokeThings marks what the holder is registered as.
	RevokeThings(ctx context.Context, tenant, holder string) error
}

// Reenrol says whether the holder of a revoked certificate may get another.
type Reenrol uint8

// The answers (S16).
const (
	ReenrolDefault Reenrol = iota // refused after keyCompromise, else allowed
	ReenrolAllowed
	ReenrolRefused
)

// Config makes a [Service].
type Config struct {
	Store Store
	Log   *slog.Logger
	Now   func() time.Time
}

// Service revokes, holds, releases and blocks.
type Service struct {
	store Store
	log   *slog.Logger
	now   func() time.Time
	Stats ServiceStats
}

// ServiceStats counts what was done since start.
type ServiceStats struct {
	Revoked, Held, Released, Blocked atomic.Int64
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{store: cfg.Store, log: cfg.Log, now: cfg.Now}
	s.log, s.now = defaults(s.log, s.now)
	return s
}

func defaults(log *slog.Logger, now func() time.Time) (*slog.Logger, func() time.Time) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if now == nil {
		now = time.Now
	}
	return log, now
}

// Withdrawal asks to revoke or hold one serial number. A number that was
// reserved and never signed can be revoked too; it becomes void.
type Withdrawal struct {
	Authority string
	Serial    ca.Serial
	Reason    Reason
	Note      string
	Reenrol   Reenrol // not with a hold
}

// Result is what a change did.
type Result struct {
	Changed bool // false: it was so already
	Blocked bool // the holder gets no certificate any more
	Revoked []ca.Serial
}

// maxNote bounds what people write into the permanent record.
const maxNote = 1024

// Revoke revokes or holds one serial number. After keyCompromise the public key
// is refused for ever, and every other certificate of the same key is revoked
// with it (A14).
func (s *Service) Revoke(ctx context.Context, by access.Actor, w Withdrawal) (Result, error) {
	if !w.Reason.Valid() {
		return Result{}, ErrReason.New("Reason %d.", w.Reason)
	}
	if w.Reason == CertificateHold && w.Reenrol != ReenrolDefault {
		return Result{}, ErrReason.New("A hold says nothing about new certificates.")
	}
	now := s.now()
	var out Result
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		out = Result{}
		story, err := s.store.Story(ctx, by.Tenant, w.Authority, w.Serial)
		if err != nil {
			return err
		}
		if err := mayRevoke(by, &story); err != nil {
			return err
		}
		if err := s.revoke(ctx, by, &story, w.Reason, now, w.Note, &out); err != nil {
			return err
		}
		if w.Reason == KeyCompromise {
			if err := s.compromise(ctx, by, &story, now, w.Note, &out); err != nil {
				return err
			}
		}
		if w.Reenrol == ReenrolRefused || w.Reenrol == ReenrolDefault && w.Reason == KeyCompromise {
			out.Blocked = true
			added, err := s.store.Block(ctx, story.Tenant, story.Holder, now, by.String(), note(w.Note))
			out.Changed = out.Changed || added
			return err
		}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	s.count(w.Reason, &out)
	s.log.InfoContext(ctx, "certificate revoked", "authority", w.Authority, "serial", w.Serial.String(), "reason", w.Reason.String(), "by", by.String(), "changed", out.Changed, "blocked", out.Blocked)
	return out, nil
}

func (s *Service) count(r Reason, out *Result) {
	if r == CertificateHold {
		s.Stats.Held.Add(int64(len(out.Revoked)))
	} else {
		s.Stats.Revoked.Add(int64(len(out.Revoked)))
	}
	if out.Blocked && out.Changed {
		s.Stats.Blocked.Add(1)
	}
}

// revoke applies the rule to one serial number.
func (s *Service) revoke(ctx context.Context, by access.Actor, story *Story, r Reason, now time.Time, text string, out *Result) error {
	c, err := decide(story.Revocation, r)
	if err != nil || c == changeNothing {
		return err
	}
	at := now
	if c == changeReason {
		// What was signed since the hold stays in doubt, so the earlier time stays.
		at = story.Revocation.At
	}
	if err := s.store.Revoke(ctx, *story, r, at, by.String(), note(text)); err != nil {
		return err
	}
	out.Changed = true
	out.Revoked = append(out.Revoked, story.Serial)
	return nil
}

// compromise refuses the key and revokes what else was certified for it.
func (s *Service) compromise(ctx context.Context, by access.Actor, first *Story, now time.Time, text string, out *Result) error {
	if err := s.store.MarkCompromised(ctx, *first); err != nil {
		return err
	}
	all, err := s.store.Stories(ctx, first.Tenant, first.Holder, now)
	if err != nil {
		return err
	}
	for i := range all {
		if st := &all[i]; st.SPKI == first.SPKI && st.Serial != first.Serial {
			if err := s.revoke(ctx, by, st, KeyCompromise, now, text, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// Release ends a hold (A33).
func (s *Service) Release(ctx context.Context, by access.Actor, authority string, serial ca.Serial, text string) error {
	now := s.now()
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		story, err := s.store.Story(ctx, by.Tenant, authority, serial)
		if err != nil {
			return err
		}
		if by.Kind != access.KindPrincipal && by.Kind != access.KindService {
			return ErrRight.New("A hold is released by people.")
		}
		v := story.Revocation
		if v == nil || v.Reason != CertificateHold || !v.ReleasedAt.IsZero() {
			return ErrNotHeld.New("Serial number %s.", serial)
		}
		return s.store.Release(ctx, story, now, by.String(), note(text))
	})
	if err != nil {
		return err
	}
	s.Stats.Released.Add(1)
	s.log.InfoContext(ctx, "hold released", "authority", authority, "serial", serial.String(), "by", by.String())
	return nil
}

// BlockDevice takes all trust from an identity (S16): every unexpired
// certificate is revoked, what was reserved for it becomes void, what it is
// registered as is marked, and it gets no certificate any more. One transaction.
func (s *Service) BlockDevice(ctx context.Context, by access.Actor, holder string, r Reason, text string) (Result, error) {
	if !r.Valid() || r == CertificateHold {
		return Result{}, ErrReason.New("A device is blocked for a permanent reason, not %s.", r)
	}
	if by.Kind != access.KindPrincipal && by.Kind != access.KindBreakGlass && by.Kind != access.KindService {
		return Result{}, ErrRight.New("A device is blocked by people.")
	}
	now := s.now()
	var out Result
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		out = Result{Blocked: true}
		all, err := s.store.Stories(ctx, by.Tenant, holder, time.Time{})
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return ErrHolderUnknown.New("%.80s.", holder)
		}
		for i := range all {
			st := &all[i]
			if r == KeyCompromise {
				if err := s.store.MarkCompromised(ctx, *st); err != nil {
					return err
				}
			}
			if !st.NotAfter.After(now) {
				continue
			}
			if v := st.Revocation; v != nil && v.ReleasedAt.IsZero() && v.Reason != CertificateHold && r != KeyCompromise {
				continue // revoked for good already; the first reason stays
			}
			if v := st.Revocation; v != nil && v.ReleasedAt.IsZero() && v.Reason == KeyCompromise {
				continue
			}
			if err := s.revoke(ctx, by, st, r, now, text, &out); err != nil {
				return err
			}
		}
		if err := s.store.RevokeThings(ctx, by.Tenant, holder); err != nil {
			return err
		}
		added, err := s.store.Block(ctx, by.Tenant, holder, now, by.String(), note(text))
		out.Changed = out.Changed || added
		return err
	})
	if err != nil {
		return Result{}, err
	}
	s.count(r, &out)
	s.log.InfoContext(ctx, "device blocked", "holder", holder, "reason", r.String(), "by", by.String(), "certificates", len(out.Revoked), "changed", out.Changed)
	return out, nil
}

// RetireDevice revokes what a device works with and leaves it what it was made with:
// every certificate in force but the birth certificate, and what was reserved for one.
// It may get others. One transaction; a hold becomes a revocation.
func (s *Service) RetireDevice(ctx context.Context, by access.Actor, holder string, r Reason, text string) (Result, error) {
	if by.Kind != access.KindPrincipal && by.Kind != access.KindService {
		return Result{}, ErrRight.New("A device is retired by people.")
	}
	out, err := s.withdrawAll(ctx, by, holder, string(profile.IDevID), r, text)
	if err == nil && out.Changed {
		s.log.InfoContext(ctx, "device retired", "holder", holder, "reason", r.String(), "by", by.String(), "certificates", len(out.Revoked))
	}
	return out, err
}

// RevokeHolder revokes every certificate of an identity that is in force, and what was
// reserved for one. Other than a device that is blocked, it may get others: a station's
// name outlives its computer. One transaction; a hold becomes a revocation.
func (s *Service) RevokeHolder(ctx context.Context, by access.Actor, holder string, r Reason, text string) (Result, error) {
	if by.Kind != access.KindPrincipal && by.Kind != access.KindBreakGlass && by.Kind != access.KindService {
		return Result{}, ErrRight.New("All certificates of an identity are revoked by people.")
	}
	return s.withdrawAll(ctx, by, holder, "", r, text)
}

// withdrawAll revokes what a holder has in force, but those of the profile keep.
func (s *Service) withdrawAll(ctx context.Context, by access.Actor, holder, keep string, r Reason, text string) (Result, error) {
	if !r.Valid() || r == CertificateHold {
		return Result{}, ErrReason.New("It takes a permanent reason, not %s.", r)
	}
	now := s.now()
	var out Result
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		out = Result{}
		all, err := s.store.Stories(ctx, by.Tenant, holder, now)
		if err != nil {
			return err
		}
		for i := range all {
			st := &all[i]
			if keep != "" && st.Profile == keep {
				continue
			}
			if v := st.Revocation; v != nil && v.ReleasedAt.IsZero() && v.Reason != CertificateHold {
				continue // the first reason stays
			}
			if err := s.revoke(ctx, by, st, r, now, text, &out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	s.count(r, &out)
	return out, nil
}

// mayRevoke is A34 for those who act without a role: a certificate can give
// itself up, and nobody else's. What principals may do is in package access.
func mayRevoke(by access.Actor, s *Story) error {
	switch by.Kind {
	case access.KindPrincipal, access.KindBreakGlass, access.KindService:
		return nil
	case access.KindDevice, access.KindStation:
		if by.Name != "" && strings.EqualFold(by.Name, s.Holder) {
			return nil
		}
	}
	return ErrRight.New("")
}

// note cuts what people wrote to one bounded line.
func note(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxNote {
		text = strings.ToValidUTF8(text[:maxNote], "")
	}
	return text
}
