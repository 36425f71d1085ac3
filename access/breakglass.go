package access

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Who comes in by break-glass (S42). Nobody is ever given these roles: a session
// has the first, a drill the second.
const (
	BreakGlass      Role = "break-glass"
	BreakGlassDrill Role = "break-glass-drill"
)

// KindBreakGlass is the kind of an [Actor] that came in by break-glass.
const KindBreakGlass ActorKind = "break-glass"

// emergency is all that break-glass may do: take trust away, and let a named
// administrator sign in again. None of it gives trust to a device.
var emergency = map[Role][]Action{
	BreakGlass:      {ReadMe, ReadBreakGlass, CloseBreakGlass, RevokeCertificate, RevokeDevice, RevokeStation, RepairSignIn},
	BreakGlassDrill: {ReadMe, ReadBreakGlass, CloseBreakGlass},
}

// mayInEmergency is [Can] for who came in by break-glass.
func mayInEmergency(a Actor, action Action) bool {
	return a.Kind == KindBreakGlass && a.Tenant != "" && a.Name != "" && slices.Contains(emergency[a.Role], action)
}

const (
	// BreakGlassLife is how long a session lasts.
	BreakGlassLife = time.Hour
	nonceLife      = 5 * time.Minute
	maxReason      = 512
)

// BreakGlassSession is one use of a break-glass key.
type BreakGlassSession struct {
	ID        string
	Tenant    string
	KeyID     string
	TokenHash [32]byte
	OpenedAt  time.Time
	ExpiresAt time.Time
	ClosedAt  time.Time // zero while it was not closed before its end
	Drill     bool
	Reason    string
	From      string
}

// Live tells whether the session's token works.
func (s *BreakGlassSession) Live(now time.Time) bool {
	return s.ClosedAt.IsZero() && now.Before(s.ExpiresAt) && !now.Before(s.OpenedAt.Add(-time.Minute))
}

// principal is the session as somebody who asks.
func (s *BreakGlassSession) principal() Principal {
	p := Principal{Tenant: s.Tenant, Name: s.ID, Role: BreakGlass, TokenHash: s.TokenHash, CreatedAt: s.OpenedAt, ExpiresAt: s.ExpiresAt}
	if s.Drill {
		p.Role = BreakGlassDrill
	}
	return p
}

// BreakGlassStore persists sessions. Contract: rows are protected against other
// writers (S32); a key opens one session for ever (ErrBreakGlassSpent), drills not
// counted; an id comes once (ErrBreakGlassReplayed); a session that is not known is
// ErrToken. RenewToken gives an enabled principal another token (ErrPrincipalUnknown).
type BreakGlassStore interface {
	OpenBreakGlass(ctx context.Context, s BreakGlassSession) error
	BreakGlassByToken(ctx context.Context, hash [32]byte) (BreakGlassSession, error)
	// BreakGlassSessions gives all of them, newest first: there are few.
	BreakGlassSessions(ctx context.Context) ([]BreakGlassSession, error)
	CloseBreakGlass(ctx context.Context, id string, now time.Time) error
	RenewToken(ctx context.Context, s Scope, name string, hash [32]byte, expires time.Time) (Principal, error)
}

// BreakGlassConfig is what an [Authenticator] needs for break-glass.
type BreakGlassConfig struct {
	Key   BreakGlassKey // the zero value: there is none
	Store BreakGlassStore
	// Nonces authenticates nonces: the same key on every node, secret.
	Nonces []byte
	// Opened is told of every session, so that its entry gets under a signed
	// checkpoint now and not later; nil tells nobody.
	Opened func(ctx context.Context)
}

// BreakGlassOpening asks for a session. Nobody can change one without the key.
type BreakGlassOpening struct {
	KeyID     string
	Nonce     string
	Tenant    string
	Reason    string
	Drill     bool
	Signature []byte
}

// message is what the key signs.
func (o *BreakGlassOpening) message() []byte {
	drill := "session"
	if o.Drill {
		drill = "drill"
	}
	out := []byte("hallmark break-glass v1\x00")
	for _, field := range []string{o.KeyID, o.Nonce, o.Tenant, o.Reason, drill} {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(field))), field...)
	}
	return out
}

// Sign signs the opening with the key that the shares are of.
func (o *BreakGlassOpening) Sign(key ed25519.PrivateKey) {
	o.KeyID = BreakGlassKey{key.Public().(ed25519.PublicKey)}.ID()
	o.Signature = ed25519.Sign(key, o.message())
}

// BreakGlassNonce is what an opening has to be about: who opens is here now. It is
// not stored.
func (a *Authenticator) BreakGlassNonce() (string, error) {
	if a.cfg.BreakGlass.Key.IsZero() {
		return "", ErrBreakGlassNone.New("")
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(a.now().UnixMilli()))
	b = append(b, randomOctets(16)...)
	return base64.RawURLEncoding.EncodeToString(append(b, a.nonceMAC(b)...)), nil
}

func (a *Authenticator) nonceMAC(b []byte) []byte {
	h := hmac.New(sha256.New, a.cfg.BreakGlass.Nonces)
	h.Write(b)
	return h.Sum(nil)
}

func (a *Authenticator) checkNonce(nonce string) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 8+16+sha256.Size || !hmac.Equal(b[24:], a.nonceMAC(b[:24])) {
		return ErrBreakGlassNonce.New("It is not one of this service's.")
	}
	age := a.now().Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(b))))
	if age > nonceLife || age < -time.Minute {
		return ErrBreakGlassNonce.New("It is %s old.", age.Round(time.Second))
	}
	return nil
}

// OpenBreakGlass opens the one session of a key, or a drill, which may do nothing and
// spends no key. The token is in this answer and nowhere else.
//
//  1. The key is the configured one, the nonce ours and fresh, the signature right.
//  2. The session, which spends the key, and its entry in the trail are one transaction.
//  3. It is told loudly, and the entry goes under a signed checkpoint.
func (a *Authenticator) OpenBreakGlass(ctx context.Context, o BreakGlassOpening, from netip.Addr) (BreakGlassSession, Token, error) {
	e := TrailEntry{Tenant: DefaultTenant, Actor: string(KindBreakGlass) + ":", Action: OpenBreakGlass, From: from.String(), About: map[string]string{"key": cutText(o.KeyID, 64)}}
	if a.cfg.RequestID != nil {
		e.Request = a.cfg.RequestID(ctx)
	}
	if err := a.checkOpening(&o, from); err != nil {
		e.Code = codeOf(err)
		a.strangers.Refused(ctx, e)
		a.log.ErrorContext(ctx, "break-glass refused", "key", cutText(o.KeyID, 64), "from", from.String(), "error", err)
		return BreakGlassSession{}, Token{}, err
	}
	t, now := NewToken(), a.now().UTC().Truncate(time.Millisecond)
	sum := sha256.Sum256([]byte(o.Nonce))
	s := BreakGlassSession{ID: hex.EncodeToString(sum[:8]), Tenant: o.Tenant, KeyID: o.KeyID, TokenHash: t.Hash(), OpenedAt: now, ExpiresAt: now.Add(BreakGlassLife), Drill: o.Drill, Reason: o.Reason, From: from.String()}
	p := s.principal()
	e.Tenant, e.Actor, e.Role, e.Token, e.On = s.Tenant, p.Actor().String(), p.Role, TokenID(s.TokenHash), "session "+s.ID
	e.About["reason"] = o.Reason
	err := Recorded(ctx, a.cfg.Trail, e, codeOf, func(ctx context.Context) error { return a.cfg.BreakGlass.Store.OpenBreakGlass(ctx, s) })
	if err != nil {
		a.log.ErrorContext(ctx, "break-glass refused", "key", s.KeyID, "from", s.From, "error", err)
		return BreakGlassSession{}, Token{}, err
	}
	a.log.ErrorContext(ctx, "break-glass opened", "session", s.ID, "key", s.KeyID, "drill", s.Drill, "reason", s.Reason, "from", s.From, "until", s.ExpiresAt)
	if a.cfg.BreakGlass.Opened != nil {
		a.cfg.BreakGlass.Opened(ctx)
	}
	return s, t, nil
}

func (a *Authenticator) checkOpening(o *BreakGlassOpening, from netip.Addr) error {
	key := a.cfg.BreakGlass.Key
	if key.IsZero() {
		return ErrBreakGlassNone.New("")
	}
	if failures, wait := a.failed(from, 0); failures > maxFailures {
		return ErrTooManyFailures.New("").After(wait)
	}
	switch {
	case o.KeyID != key.ID() || !ed25519.Verify(key.public, o.message(), o.Signature):
		a.failed(from, 1)
		return ErrBreakGlassKey.New("The service's key is %s.", key.ID())
	case o.Tenant == "" || len(o.Tenant) > 64:
		return ErrBreakGlassReason.New("The tenant is missing.")
	case strings.TrimSpace(o.Reason) == "" || len(o.Reason) > maxReason || !utf8.ValidString(o.Reason) || strings.ContainsFunc(o.Reason, unicode.IsControl):
		return ErrBreakGlassReason.New("")
	}
	return a.checkNonce(o.Nonce)
}

// byBreakGlass finds the session of a token. It is asked every time, so that the end
// of a session is its end.
func (a *Authenticator) byBreakGlass(ctx context.Context, t Token) (Principal, error) {
	if a.cfg.BreakGlass.Store == nil {
		return Principal{}, ErrToken.New("")
	}
	s, err := a.cfg.BreakGlass.Store.BreakGlassByToken(ctx, t.Hash())
	if err != nil {
		return Principal{}, err
	}
	if !s.Live(a.now()) {
		return Principal{}, ErrBreakGlassOver.New("Session %s.", s.ID)
	}
	a.log.ErrorContext(ctx, "break-glass used", "session", s.ID, "drill", s.Drill)
	return s.principal(), nil
}

// CloseBreakGlass ends a session before its hour is over.
func (a *Authenticator) CloseBreakGlass(ctx context.Context, by Actor) error {
	if err := Require(by, CloseBreakGlass); err != nil {
		return err
	}
	if err := a.cfg.BreakGlass.Store.CloseBreakGlass(ctx, by.Name, a.now()); err != nil {
		return err
	}
	a.log.ErrorContext(ctx, "break-glass closed", "session", by.Name)
	return nil
}

// RepairSignIn gives a named administrator a new token; the one before works no
// more. Who was disabled stays so: a name that was ended does not come back.
func (a *Authenticator) RepairSignIn(ctx context.Context, by Actor, name string) (Principal, Token, error) {
	if err := Require(by, RepairSignIn); err != nil {
		return Principal{}, Token{}, err
	}
	p, err := a.cfg.Store.Principal(ctx, by.Scope(), name)
	if err != nil {
		return Principal{}, Token{}, err
	}
	if p.Role != Platform && p.Role != SecurityOfficer || !p.DisabledAt.IsZero() {
		return Principal{}, Token{}, ErrBreakGlassAdmin.New("%s is %s.", name, p.Role)
	}
	t := NewToken()
	p, err = a.cfg.BreakGlass.Store.RenewToken(ctx, by.Scope(), name, t.Hash(), a.now().UTC().Truncate(time.Millisecond).Add(DefaultTokenLife))
	a.forget()
	if err == nil {
		a.log.ErrorContext(ctx, "sign-in repaired", "principal", name, "tenant", by.Tenant, "by", by.String())
	}
	return p, t, err
}

// BreakGlassState is how break-glass stands.
type BreakGlassState struct {
	KeyID    string // of the configured key; "" if there is none
	Spent    bool   // it opened its session: the next use needs a new one
	Sessions []BreakGlassSession
	Open     int       // sessions, without drills
	Drilled  time.Time // of the last drill with this key
}

// BreakGlass says how break-glass stands.
func (a *Authenticator) BreakGlass(ctx context.Context) (v BreakGlassState, err error) {
	if !a.cfg.BreakGlass.Key.IsZero() {
		v.KeyID = a.cfg.BreakGlass.Key.ID()
	}
	if a.cfg.BreakGlass.Store == nil {
		return v, nil
	}
	if v.Sessions, err = a.cfg.BreakGlass.Store.BreakGlassSessions(ctx); err != nil {
		return v, err
	}
	now := a.now()
	for i := range v.Sessions {
		s := &v.Sessions[i]
		switch {
		case s.Drill:
			if s.KeyID == v.KeyID && s.OpenedAt.After(v.Drilled) {
				v.Drilled = s.OpenedAt
			}
		default:
			v.Spent = v.Spent || s.KeyID == v.KeyID
			if s.Live(now) {
				v.Open++
			}
		}
	}
	return v, nil
}
