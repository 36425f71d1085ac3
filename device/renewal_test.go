package device

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// The window is the service's to move: a device asks for it again, and renews when it
// has come.
func TestRenewal_AWindowThatTheServiceMovesIsHeard(t *testing.T) {
	s := newService(t)
	s.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/bootstrap/v1/renewal" {
			return true
		}
		now := time.Now().UTC()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "3600")
		fmt.Fprintf(w, `{"start":%q,"end":%q}`, now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339))
		return false
	}
	u := s.unit(1)
	u.cfg.NoRenewal, u.cfg.askAfter = false, 100*time.Millisecond
	u.survive("renewed", func(*served) bool {
		active, _ := os.ReadFile(u.cfg.Dir + "/slots/active")
		return string(active) == "B\n"
	})
	if slot := u.works(); slot != "B" {
		t.Errorf("slot %s", slot)
	}
}

// The roots that a device was given over the air count for the question too, not those
// that it was configured with.
func TestRenewal_TheWindowIsAskedForUnderTheRootsOfNow(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	other, _ := otherRoot(t)
	r := &runner{cfg: u.cfg, now: time.Now, log: slog.New(slog.DiscardHandler), ctx: t.Context()}
	r.cfg.hook()
	r.cfg.Roots = x509.NewCertPool()
	r.cfg.Roots.AddCert(other)
	r.trust = &trust{Step: stepDone, Now: anchors{Roots: [][]byte{s.Root.Raw}}}
	h, err := openHome(u.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	used, err := h.active()
	h.close()
	if err != nil {
		t.Fatal(err)
	}
	r.leaf, r.slot = used.Leaf, used.slot
	if _, w, _, err := r.fetchWindow(t.Context()); err != nil || w == nil {
		t.Errorf("window %v, %v", w, err)
	}
}

// A registration that cannot be read is not taken over: the slot that is made from it
// would know neither its thing nor its service.
func TestRenewal_ABrokenRegistrationIsNotTakenOver(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	h, err := openHome(u.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	used, err := h.active()
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(h.path(used.slot, answerFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(used.slot, answerFile), good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	a := &agent{h: h, cfg: u.cfg.Config, now: time.Now, log: slog.New(slog.DiscardHandler)}
	a.cfg.hook()
	if p, err := a.keep(used, "B", used.PrivateKey.(crypto.Signer), [][]byte{used.Leaf.Raw, s.Root.Raw}, nil); p != nil || !errors.Is(err, ErrDir) || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := os.Stat(h.path("B", answerFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("slot B was written: %v", err)
	}
}
