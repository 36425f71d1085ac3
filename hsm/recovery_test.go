package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
	"github.com/prometheus/client_golang/prometheus"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
)

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// down asserts that requests fail at once, with the fault and a time to return.
func down(t testing.TB, s hsm.Signer) {
	t.Helper()
	began := time.Now()
	for range 100 {
		err := try(s)
		is(t, err, hsm.ErrTokenDown)
		if f := fault.From(err); f.RetryAfter == 0 || f.Kind != fault.Unavailable {
			t.Fatalf("the fault does not tell when to return: %+v", f)
		}
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Fatalf("100 failures took %v", d)
	}
}

func gauge(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// A23: the token goes away under load and comes back; nothing is restarted.
func TestKeyring_TokenVanishesAndReturns(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	reg := prometheus.NewRegistry()
	k := open(t, hsm.Config{Metrics: reg, Sessions: 2})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	second := generate(t, k, tok.URI("second"), hsm.RSA2048)
	signs(t, s)
	for round := range 2 {
		tok.Vanish()
		eventually(t, "the loss is seen", func() bool { return try(s) != nil })
		down(t, s)
		down(t, second)
		if h := k.Health(t.Context()); len(h) != 1 || h[0].State != hsm.StateDown || h[0].LastError == "" {
			t.Errorf("health: %+v", h)
		}
		if gauge(t, reg, "hallmark_hsm_breaker_state") != 1 {
			t.Error("the breaker's figure is not 1")
		}
		tok.Return()
		eventually(t, "the token is back", func() bool { return try(s) == nil })
		signs(t, s)
		signs(t, second)
		if h := k.Health(t.Context()); h[0].State != hsm.StateUp || h[0].Keys != 2 {
			t.Errorf("round %d: health: %+v", round, h)
		}
	}
	if gauge(t, reg, "hallmark_hsm_errors_total") == 0 || gauge(t, reg, "hallmark_hsm_sign_seconds") == 0 {
		t.Error("errors or signatures were not counted")
	}
}

// A token that returns with another key under the same name stays down.
func TestKeyring_ReturnedTokenMustHoldTheSameKey(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	made := generate(t, k, tok.URI("ca"), hsm.P256)
	id := strings.ReplaceAll(made.URI()[strings.Index(made.URI(), "id=%")+3:], "%", "")
	p11tool(t, tok, "--delete-object", "--type", "privkey", "--label", "ca")
	p11tool(t, tok, "--delete-object", "--type", "pubkey", "--label", "ca")
	p11tool(t, tok, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "ca", "--id", id)
	err := try(made)
	if err == nil {
		t.Fatal("signed with a key that is not the one that was opened")
	}
}

func TestKeyring_KeyDeletedElsewhereIsNotAnOutage(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	other := generate(t, k, tok.URI("other"), hsm.P256)
	p11tool(t, tok, "--delete-object", "--type", "privkey", "--label", "ca")
	is(t, try(s), hsm.ErrKeyNotFound)
	signs(t, other)
}

func p11tool(t testing.TB, tok hsmtest.Token, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("pkcs11-tool"); err != nil {
		hsmtest.Missing(t, "pkcs11-tool: not installed; apt-get install -y --no-install-recommends opensc")
	}
	cmd := exec.Command("pkcs11-tool", append([]string{"--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", hsmtest.PIN}, args...)...)
	cmd.Env = append(os.Environ(), tok.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pkcs11-tool: %v: %s", err, out)
	}
	return string(out)
}

// A23: a wrong PIN reaches the token once, however often and by whomever it is
// asked, and never shows in the log.
func TestKeyring_WrongPINIsTriedOnce(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	var asked atomic.Int32
	source := hsm.PINFunc(func(context.Context, hsm.TokenID, string) (hsm.Secret, error) {
		asked.Add(1)
		return hsm.NewSecret([]byte("wrong-987")), nil
	})
	uri, _, _ := strings.Cut(tok.URI("ca"), "&pin-source")
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for range 2 {
		k := open(t, hsm.Config{PIN: source, Log: logger})
		for range 3 {
			_, err := k.Signer(t.Context(), uri)
			is(t, err, hsm.ErrPINRefused)
			if strings.Contains(err.Error(), "wrong-987") {
				t.Fatal("the error shows the PIN")
			}
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the PIN was tried %d times", n)
	}
	if strings.Contains(log.String(), "wrong-987") {
		t.Error("the log shows the PIN")
	}
}

// A23: the PIN is changed while the token is away. The reconnection tries the
// old one once and then waits for a person.
func TestKeyring_ReconnectStopsAtARefusedPIN(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	reg := prometheus.NewRegistry()
	k := open(t, hsm.Config{Metrics: reg})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	tok.Vanish()
	eventually(t, "the loss is seen", func() bool { return try(s) != nil })
	away := tok
	away.Conf = changedPIN(t, tok)
	tok.Return()
	eventually(t, "the refusal is seen", func() bool { return k.Health(t.Context())[0].State == hsm.StateRefused })
	is(t, try(s), hsm.ErrPINRefused)
	time.Sleep(200 * time.Millisecond) // long enough for several of the first pauses
	is(t, try(s), hsm.ErrPINRefused)
	families, _ := reg.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "CKR_PIN_INCORRECT" && m.GetCounter().GetValue() != 1 {
					t.Errorf("the PIN was refused %v times", m.GetCounter().GetValue())
				}
			}
		}
	}
}

// changedPIN changes the PIN of a vanished token, from another process.
func changedPIN(t testing.TB, tok hsmtest.Token) string {
	t.Helper()
	conf := tok.Conf + ".away"
	text, err := os.ReadFile(tok.Conf)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("/tokens\n"), []byte("/away\n"))
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	away := tok
	away.Conf = conf
	p11tool(t, away, "--change-pin", "--new-pin", "654321")
	return conf
}

// One module, two keyrings: when one makes it start anew, the other goes on.
func TestKeyring_AnotherKeyringRestartsTheModule(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	a, b := open(t, hsm.Config{}), open(t, hsm.Config{})
	sa := generate(t, a, tok.URI("ca"), hsm.P256)
	sb, err := b.Signer(t.Context(), tok.URI("ca"))
	if err != nil {
		t.Fatal(err)
	}
	tok.Vanish()
	eventually(t, "a sees the loss", func() bool { return try(sa) != nil })
	tok.Return()
	eventually(t, "a is back", func() bool { return try(sa) == nil })
	eventually(t, "b is back", func() bool { return try(sb) == nil })
	signs(t, sa)
	signs(t, sb)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	signs(t, sb) // the login of b does not end with a
}

// A23: somebody else in the process logs the token out, which ends the login of
// every session and makes the keys invisible. Nobody may notice. It can happen
// where the module is loaded directly.
func TestKeyring_LogoutByAnotherUserOfTheModule(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{Direct: true})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	ctx := p11.New(tok.Module)
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	sess, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.CloseSession(sess)
	for range 3 {
		if err := ctx.Logout(sess); err != nil {
			t.Fatal(err)
		}
		signs(t, s)
	}
	if err := ctx.CloseAllSessions(slots[0]); err != nil {
		t.Fatal(err)
	}
	signs(t, s)
}

func TestKeyring_RemoteTokenIsKilledAndRestarted(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: 2 * time.Second})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	signs(t, s)
	tok.Kill()
	eventually(t, "the loss is seen", func() bool { return try(s) != nil })
	down(t, s)
	_, err := k.Generate(t.Context(), tok.URI("new"), hsm.Spec{Algorithm: hsm.P256})
	is(t, err, hsm.ErrTokenDown)
	tok.Start()
	eventually(t, "the token is back", func() bool { return try(s) == nil })
	signs(t, s)
	generate(t, k, tok.URI("new"), hsm.P256)
}

// A server that hangs must not hang its callers: the first leaves after the
// time-out, the next at once; when the server goes on or dies, all is well.
func TestKeyring_RemoteTokenFreezes(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: 200 * time.Millisecond})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	for _, end := range []func(){tok.Thaw, func() { tok.Kill(); tok.Start() }} {
		tok.Freeze()
		began := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := try(s); fault.From(err) == nil || fault.From(err).Definition != hsm.ErrTokenDown {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("callers hung for %v", d)
		}
		down(t, s)
		end()
		eventually(t, "the token is back", func() bool { return try(s) == nil })
		signs(t, s)
	}
}

// A server that never answers again must not need a restart of the service:
// the process whose calls hang in the client library is ended, and another one
// serves.
func TestKeyring_ModuleThatHangsForEverIsReplaced(t *testing.T) {
	tok := hsmtest.Server(t)
	reg := prometheus.NewRegistry()
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	k := open(t, hsm.Config{SignTimeout: time.Second, Metrics: reg, Log: logger})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	for round := range 2 {
		end := tok.LeaveFrozen()
		began := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := try(s); fault.From(err) == nil || fault.From(err).Definition != hsm.ErrTokenDown {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("callers hung for %v", d)
		}
		down(t, s)
		tok.Start()
		started := time.Now()
		eventually(t, "the token is back", func() bool { return try(s) == nil })
		t.Logf("back %v after the new server", time.Since(started))
		// More than the workers that were lost, all at once.
		for range 16 {
			wg.Go(func() {
				if err := try(s); err != nil {
					t.Errorf("after the return: %v", err)
				}
			})
		}
		wg.Wait()
		signs(t, s)
		if h := k.Health(t.Context()); h[0].State != hsm.StateUp || h[0].Stuck != 0 || h[0].Replaced <= round {
			t.Errorf("round %d: health: %+v", round, h)
		}
		eventually(t, "the figure tells", func() bool { return gauge(t, reg, "hallmark_hsm_module_processes_replaced_total") >= float64(round+1) })
		if n := strings.Count(log.String(), "the module's process is replaced"); n == 0 {
			t.Error("the log does not tell that a process was replaced")
		}
		end()
		generate(t, k, tok.URI("new-"+string(rune('a'+round))), hsm.P256)
	}
	if strings.Contains(log.String(), "PIN") {
		t.Errorf("the PIN came into play: %s", log.String())
	}
}

// The same where the token hangs before it is opened at all.
func TestKeyring_ModuleThatHangsAtTheOpeningIsReplaced(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: 200 * time.Millisecond})
	first := generate(t, k, tok.URI("ca"), hsm.P256) // the module is initialised from now on
	k.Close()
	is(t, try(first), hsm.ErrClosed)
	k = open(t, hsm.Config{SignTimeout: 200 * time.Millisecond})
	tok.LeaveFrozen()
	_, err := k.Signer(t.Context(), tok.URI("ca"))
	is(t, err, hsm.ErrTokenDown)
	tok.Start()
	eventually(t, "the token is open", func() bool {
		s, err := k.Signer(t.Context(), tok.URI("ca"))
		return err == nil && try(s) == nil
	})
}

// A key that wants the PIN for each signature is tested while a connection is
// made, and the PIN must be at hand then.
func TestKeyring_KeyThatWantsThePINEachTimeReturns(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	p11tool(t, tok, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "ca", "--id", "01", "--always-auth")
	k := open(t, hsm.Config{})
	s, err := k.Signer(t.Context(), tok.URI("ca"))
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	tok.Vanish()
	eventually(t, "the loss is seen", func() bool { return try(s) != nil })
	tok.Return()
	eventually(t, "the token is back", func() bool { return try(s) == nil })
	signs(t, s)
}

// Killing the server under load made calls hang for ever in its client library,
// about once in fifteen times, until the module took one call at a time.
func TestKeyring_RemoteTokenIsKilledUnderLoad(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: time.Second, Sessions: 4})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	rounds := 8
	if os.Getenv("HALLMARK_PROOF") == "1" {
		rounds = 50
	}
	for range rounds {
		var done atomic.Bool
		var good atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !done.Load() {
					if try(s) == nil {
						good.Add(1)
					}
				}
			})
		}
		eventually(t, "20 signatures", func() bool { return good.Load() >= 20 })
		tok.Kill()
		eventually(t, "the loss is seen", func() bool { return k.Health(t.Context())[0].State == hsm.StateDown })
		tok.Start()
		good.Store(0)
		eventually(t, "20 signatures again", func() bool { return good.Load() >= 20 })
		done.Store(true)
		wg.Wait()
		if h := k.Health(t.Context())[0]; h.Stuck != 0 {
			t.Fatalf("calls hang: %+v", h)
		}
	}
}

func TestKeyring_CallerLeavesAtItsOwnDeadline(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: 10 * time.Second})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	tok.Freeze()
	defer tok.Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	digest := sha256.Sum256(nil)
	_, err := s.SignContext(ctx, digest[:], crypto.SHA256)
	is(t, err, hsm.ErrBusy)
}

func TestKeyring_TokenThatIsNotThereYetIsDown(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{})
	tok.Kill()
	_, err := k.Signer(t.Context(), tok.URI("ca"))
	is(t, err, hsm.ErrTokenDown)
	tok.Start()
	generate(t, k, tok.URI("ca"), hsm.P256)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
