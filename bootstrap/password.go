package bootstrap

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"log/slog"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/provisioner"
)

// PasswordLife is the longest and the usual life of a one-time password (A37).
const PasswordLife = time.Hour

// MaxPasswordAttempts is how often a password may be shown for something else
// than what it is for.
const MaxPasswordAttempts = 5

// Password is a one-time password as it is stored: by its hash.
type Password struct {
	Tenant    string
	ID        string // public; the reference value of protocols that have one
	Unit      string
	Profile   profile.Name
	Order     string // that a birth certificate counts on; "" for others
	Hash      [32]byte
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	Attempts  int
	SPKI      *[32]byte // hash of the key that it was used for
	UsedAt    time.Time
}

// Passwords persists one-time passwords. Contract: look-ups return
// ErrEnrolPassword if there is none; RedeemPassword binds a password to the first
// key that comes with it, in one transaction, and takes the same key again until
// the password ends, so that a crash between redemption and certificate is not
// the end (A40); FailPassword counts an attempt; rows are protected against other
// writers (S32).
type Passwords interface {
	CreatePassword(ctx context.Context, p Password) error
	PasswordByID(ctx context.Context, id string) (Password, error)
	PasswordByHash(ctx context.Context, hash [32]byte) (Password, error)
	RedeemPassword(ctx context.Context, id string, spki [32]byte, now time.Time) error
	FailPassword(ctx context.Context, id string) error
}

// Secret is a one-time password in clear. It shows itself to nobody but who asks
// with [Secret.Reveal].
type Secret string

const redacted = "[redacted]"

// Reveal is the text of the password.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

var letters = base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding) // none that look alike

// secret makes the password of an id from the key outside the database: a
// protocol that authenticates octets needs the password itself, and no row has it.
func (e *Enroller) secret(id string) Secret {
	sum := sha256.Sum256(e.cfg.Secret(id))
	return Secret(letters.EncodeToString(sum[:20]))
}

// PasswordRequest asks for a one-time password.
type PasswordRequest struct {
	Unit    string
	Profile profile.Name
	Order   string // of a birth certificate
	Life    time.Duration
}

// CreatePassword makes a one-time password for one unit and one profile. Whether
// the actor may is for the caller to know. The secret is shown once.
func (e *Enroller) CreatePassword(ctx context.Context, by access.Actor, r PasswordRequest) (Password, Secret, error) {
	p, err := e.draft(ctx, by, &r)
	if err != nil {
		return Password{}, "", err
	}
	secret := e.secret(p.ID)
	if err := e.keep(ctx, by, &p, secret.Reveal()); err != nil {
		return Password{}, "", err
	}
	return p, secret, nil
}

// AdoptPassword makes a one-time password of a challenge that somebody else drew
// and vouches for. It is found by the challenge alone.
func (e *Enroller) AdoptPassword(ctx context.Context, by access.Actor, challenge string, r PasswordRequest) error {
	p, err := e.draft(ctx, by, &r)
	if err != nil {
		return err
	}
	return e.keep(ctx, by, &p, challenge)
}

// KnownPassword tells whether a password was ever made, for whatever it was.
func (e *Enroller) KnownPassword(ctx context.Context, password string) (bool, error) {
	_, err := e.cfg.Passwords.PasswordByHash(ctx, sha256.Sum256([]byte(password)))
	if errors.Is(err, ErrEnrolPassword) {
		return false, nil
	}
	return err == nil, err
}

// draft is a password without its secret.
func (e *Enroller) draft(ctx context.Context, by access.Actor, r *PasswordRequest) (Password, error) {
	if r.Life == 0 {
		r.Life = PasswordLife
	}
	switch {
	case provisioner.ValidUnit(r.Unit) != nil:
		return Password{}, ErrEnrolConfig.New("The unit %.80q is not 1 to 64 characters of A-Z a-z 0-9 . _ : -", r.Unit)
	case r.Profile != profile.IDevID && r.Profile != profile.LDevID:
		return Password{}, ErrEnrolConfig.New("The profile %.40q is neither idevid nor ldevid.", string(r.Profile))
	case r.Life < time.Minute || r.Life > PasswordLife:
		return Password{}, ErrEnrolConfig.New("A life of %s is not one minute to one hour.", r.Life)
	case (r.Profile == profile.IDevID) != (r.Order != ""):
		return Password{}, ErrEnrolConfig.New("A birth certificate (idevid) counts on an order, and no other does.")
	}
	if r.Order != "" {
		if err := e.cfg.Units.CheckEnrolment(ctx, by.Tenant, r.Order, r.Unit); err != nil {
			return Password{}, err
		}
	}
	var raw [10]byte
	rand.Read(raw[:])
	now := e.now().UTC().Truncate(time.Millisecond)
	return Password{Tenant: by.Tenant, ID: letters.EncodeToString(raw[:]), Unit: r.Unit, Profile: r.Profile, Order: r.Order,
		CreatedBy: by.Name, CreatedAt: now, ExpiresAt: now.Add(r.Life)}, nil
}

// keep stores a password, by the hash of its secret.
func (e *Enroller) keep(ctx context.Context, by access.Actor, p *Password, secret string) error {
	p.Hash = sha256.Sum256([]byte(secret))
	if err := e.cfg.Passwords.CreatePassword(ctx, *p); err != nil {
		return err
	}
	e.log.InfoContext(ctx, "one-time password made", "password", p.ID, "unit", p.Unit, "profile", string(p.Profile), "order", p.Order, "by", by.String())
	return nil
}

// ByPassword finds what a user name and a password stand for: the unit, and its
// one-time password. A password that is shown for another unit has one chance
// less (A37).
func (e *Enroller) ByPassword(ctx context.Context, user, password string) (Applicant, error) {
	if len(user) > 64 || len(password) > 128 {
		return Applicant{}, ErrEnrolPassword.New("")
	}
	p, err := e.cfg.Passwords.PasswordByHash(ctx, sha256.Sum256([]byte(password)))
	if err != nil {
		return Applicant{}, err
	}
	if p.Unit != user {
		return Applicant{}, e.fails(ctx, &p, ErrEnrolPassword.New(""))
	}
	return Applicant{Password: &p}, e.open(&p)
}

// ByReference finds a password by its id, for protocols that prove a secret
// without sending it; who uses the applicant has verified that proof before.
func (e *Enroller) ByReference(ctx context.Context, id string) (Applicant, Secret, error) {
	if len(id) > 64 || strings.TrimSpace(id) == "" {
		return Applicant{}, "", ErrEnrolPassword.New("")
	}
	p, err := e.cfg.Passwords.PasswordByID(ctx, id)
	if err != nil {
		return Applicant{}, "", err
	}
	secret := e.secret(p.ID)
	if sum := sha256.Sum256([]byte(secret.Reveal())); subtle.ConstantTimeCompare(sum[:], p.Hash[:]) != 1 {
		return Applicant{}, "", ErrEnrolPassword.New("") // made under another key of the service
	}
	return Applicant{Password: &p}, secret, e.open(&p)
}

// open refuses a password that ended. One that was used is open to its own key,
// which redemption decides.
func (e *Enroller) open(p *Password) error {
	if !e.now().Before(p.ExpiresAt) || p.Attempts >= MaxPasswordAttempts && p.SPKI == nil {
		return ErrEnrolPassword.New("")
	}
	return nil
}

// fails counts an attempt for something else and gives why back.
func (e *Enroller) fails(ctx context.Context, p *Password, why error) error {
	if err := e.cfg.Passwords.FailPassword(ctx, p.ID); err != nil {
		e.log.ErrorContext(ctx, "an attempt with a one-time password was not counted", "password", p.ID, "error", err)
	}
	return why
}
