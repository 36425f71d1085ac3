package console

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"hallmark/access"
)

const (
	// The prefix makes browsers insist on Secure, on this host and on the whole
	// path, so that no neighbour can plant a session (RFC 6265bis, Section 4.1.3).
	cookieName  = "__Host-hallmark"
	idleLife    = 30 * time.Minute
	sessionLife = 8 * time.Hour
	maxSessions = 10_000
)

// session is a signed-in browser.
type session struct {
	token   [32]byte // hash of the principal's token: the session ends with it
	started time.Time
	used    time.Time
}

// sessions keeps them in memory, by the hash of the cookie, so that a memory
// dump of another kind than this map holds no usable cookie.
type sessions struct {
	access *access.Authenticator
	now    func() time.Time
	key    [32]byte // of the forms' tokens

	mu   sync.Mutex
	byID map[[32]byte]*session
}

// start makes a session and its cookie. The id is always new, so that a planted
// one is worth nothing (A64).
func (s *sessions) start(w http.ResponseWriter, p access.Principal) {
	var raw [32]byte
	rand.Read(raw[:])
	id := base64.RawURLEncoding.EncodeToString(raw[:])
	now := s.now()
	s.mu.Lock()
	if len(s.byID) >= maxSessions {
		s.sweep(now)
	}
	if len(s.byID) < maxSessions {
		s.byID[sha256.Sum256([]byte(id))] = &session{token: p.TokenHash, started: now, used: now}
	}
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: id, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// liveHeader is what the script sends when a page refreshes itself.
const liveHeader = "Hallmark-Live"

// form is the token that the forms of a session carry: another site cannot know it,
// and it is worth nothing in another session.
func (s *sessions) form(r *http.Request) string {
	id, ok := cookieHash(r)
	if !ok {
		return ""
	}
	m := hmac.New(sha256.New, s.key[:])
	m.Write(id[:])
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// ours tells whether a form's token is that of the request's session.
func (s *sessions) ours(r *http.Request, token string) bool {
	want := s.form(r)
	return want != "" && hmac.Equal([]byte(want), []byte(token))
}

func (x *session) over(now time.Time) bool {
	return now.Sub(x.used) >= idleLife || now.Sub(x.started) >= sessionLife || now.Before(x.started)
}

func (s *sessions) sweep(now time.Time) {
	for id, x := range s.byID {
		if x.over(now) {
			delete(s.byID, id)
		}
	}
}

func cookieHash(r *http.Request) (h [32]byte, ok bool) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return h, false
	}
	return sha256.Sum256([]byte(c.Value)), true
}

// find is the principal of a request's session; false if there is none. The
// principal is looked up each time: whoever is disabled is out at once.
func (s *sessions) find(ctx context.Context, r *http.Request) (access.Principal, bool, error) {
	id, ok := cookieHash(r)
	if !ok {
		return access.Principal{}, false, nil
	}
	now := s.now()
	s.mu.Lock()
	x := s.byID[id]
	if x != nil && x.over(now) {
		delete(s.byID, id)
		x = nil
	}
	if x == nil {
		s.mu.Unlock()
		return access.Principal{}, false, nil
	}
	if r.Header.Get(liveHeader) == "" { // a page that refreshes itself is nobody at work
		x.used = now
	}
	token := x.token
	s.mu.Unlock()
	p, err := s.access.ByHash(ctx, token)
	if err != nil {
		if isGone(err) {
			s.end(r)
			return access.Principal{}, false, nil
		}
		return access.Principal{}, false, err
	}
	return p, true, nil
}

// end forgets the session of a request.
func (s *sessions) end(r *http.Request) {
	if id, ok := cookieHash(r); ok {
		s.mu.Lock()
		delete(s.byID, id)
		s.mu.Unlock()
	}
}
