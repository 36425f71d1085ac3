package device

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
)

// install puts a birth certificate into a device's directory, as the factory does.
func install(t *testing.T, d *bootstraptest.Door, unit string) (Config, *x509.Certificate) {
	t.Helper()
	c, key := d.IssueIDevID(t, unit)
	dir := filepath.Join(t.TempDir(), unit)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"idevid.pem": catest.PEM(c, d.Device), "idevid.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{Dir: dir, Server: d.URL, Roots: d.Pool()}, c
}

func issued(t *testing.T, d *bootstraptest.Door, holder string) []ca.Record {
	t.Helper()
	all, err := d.DB.Records(context.Background(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: holder, Profile: "ldevid"})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// whole checks that the directory's copies are one pair and gives its certificate.
func whole(t *testing.T, cfg Config) *x509.Certificate {
	t.Helper()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(raw)
		return b.Bytes
	}
	c, err := x509.ParseCertificate(read("ldevid.pem"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.ParsePKCS8PrivateKey(read("ldevid.key"))
	if err != nil || !k.(*ecdsa.PrivateKey).PublicKey.Equal(c.PublicKey) {
		t.Errorf("ldevid.key and ldevid.pem do not fit: %v", err)
	}
	if i, err := os.Stat(filepath.Join(cfg.Dir, "ldevid.key")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("ldevid.key: %v %v", i.Mode(), err)
	}
	return c
}

func TestFirstBoot_RegistersOnceAndForAll(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	cfg, _ := install(t, d, "SN-1")
	cfg.Parameters = map[string]string{"Site": "Hall 3"}
	out, err := FirstBoot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if out.Thing != "thing-SN-1" || out.Slot != "A" || out.Status != "ACTIVE" || out.Configuration["site"] != "site/Hall 3" || len(out.Policies) != 1 || out.Resumed {
		t.Errorf("%+v", out)
	}
	c := whole(t, cfg)
	again, err := FirstBoot(t.Context(), cfg)
	if err != nil || !again.Resumed || again.Serial != out.Serial || !bytes.Equal(whole(t, cfg).Raw, c.Raw) {
		t.Errorf("%+v %v", again, err)
	}
	if n := len(issued(t, d, "SN-1")); n != 1 {
		t.Errorf("%d certificates", n)
	}
	var reg map[string]any
	raw, err := os.ReadFile(filepath.Join(cfg.Dir, "registration.json"))
	if err != nil || json.Unmarshal(raw, &reg) != nil || reg["thing"] != "thing-SN-1" {
		t.Errorf("%s %v", raw, err)
	}
	trust, err := os.ReadFile(filepath.Join(cfg.Dir, "trust.pem"))
	if err != nil || !bytes.Equal(trust, catest.PEM(d.Root)) {
		t.Error("trust.pem is not the root")
	}
}

var errKilled = errors.New("killed")

// Killed before any step, the next run ends the same: one key, one certificate.
func TestFirstBoot_ResumesAfterAKillAtAnyStep(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	for _, renew := range []bool{false, true} {
		for _, step := range []string{"key", "connect", "ask", "answered", "store", "prove", "activate", "export"} {
			name := "first-" + step
			if renew {
				name = "renewal-" + step
			}
			t.Run(name, func(t *testing.T) {
				cfg, _ := install(t, d, "U-"+name)
				want := 1
				if renew {
					if _, err := FirstBoot(t.Context(), cfg); err != nil {
						t.Fatal(err)
					}
					cfg.Renew, want = true, 2
				}
				cut := cfg
				cut.step = func(s string) error {
					if s == step {
						return errKilled
					}
					return nil
				}
				if _, err := FirstBoot(t.Context(), cut); !errors.Is(err, errKilled) {
					t.Fatalf("not killed: %v", err)
				}
				// Twice at the same place, then through. A renewal that was
				// already activated is not asked for again.
				if step != "export" {
					if _, err := FirstBoot(t.Context(), cut); !errors.Is(err, errKilled) {
						t.Fatalf("not killed: %v", err)
					}
				} else {
					cfg.Renew = false
				}
				out, err := FirstBoot(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				recs := issued(t, d, "U-"+name)
				if len(recs) != want {
					t.Errorf("%d certificates, want %d", len(recs), want)
				}
				if last := recs[len(recs)-1]; last.Serial.String() != out.Serial || !bytes.Equal(whole(t, cfg).Raw, last.DER) {
					t.Errorf("the device uses %s, the newest is %s", out.Serial, last.Serial)
				}
				cfg.Renew = false
				if again, err := FirstBoot(t.Context(), cfg); err != nil || !again.Resumed || again.Serial != out.Serial {
					t.Errorf("%+v %v", again, err)
				}
			})
		}
	}
}

func TestFirstBoot_RenewsFromSlotToSlot(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	cfg, _ := install(t, d, "SN-1")
	seen := map[string]bool{}
	for i, slot := range []string{"A", "B", "A", "B"} {
		cfg.Renew = i > 0
		out, err := FirstBoot(t.Context(), cfg)
		if err != nil || out.Slot != slot || seen[out.Serial] {
			t.Fatalf("run %d: %+v %v", i, out, err)
		}
		seen[out.Serial] = true
		if err := d.Set.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	live := 0
	for _, r := range issued(t, d, "SN-1") {
		if !r.Revoked() {
			live++
		}
	}
	if live != 2 {
		t.Errorf("%d certificates live", live)
	}
}

// A device whose pair was revoked while it was off comes back with its birth
// certificate, if that is still good.
func TestFirstBoot_ComesBackAfterItsPairWasRevoked(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	cfg, birth := install(t, d, "SN-1")
	if _, err := FirstBoot(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	d.Revoke(t, whole(t, cfg), 4)
	_, err := FirstBoot(t.Context(), cfg)
	if !errors.Is(err, ErrRefused) || fault.From(err).Members["code"] != "device-revoked" {
		t.Errorf("%v", err)
	}
	cfg.Renew = true
	if out, err := FirstBoot(t.Context(), cfg); err != nil || out.Slot != "B" {
		t.Errorf("%+v %v", out, err)
	}
	d.Revoke(t, birth, 1)
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "slots")); err != nil {
		t.Fatal(err)
	}
	if _, err := FirstBoot(t.Context(), cfg); !errors.Is(err, ErrRefused) || fault.From(err).Members["code"] != "device-revoked" {
		t.Errorf("%v", err)
	}
	cfg2, birth2 := install(t, d, "SN-2")
	d.Revoke(t, birth2, 1)
	if _, err := FirstBoot(t.Context(), cfg2); !errors.Is(err, ErrRefused) || fault.From(err).Members["code"] != "device-revoked" {
		t.Errorf("%v", err)
	}
}

// The device believes nobody who cannot sign under its own roots.
func TestFirstBoot_ChecksWhatItGets(t *testing.T) {
	d, evil := bootstraptest.New(t, bootstraptest.Options{}), bootstraptest.New(t, bootstraptest.Options{})
	cfg, _ := install(t, d, "SN-1")
	cfg.Server = evil.URL
	if _, err := FirstBoot(t.Context(), cfg); !errors.Is(err, ErrServer) {
		t.Errorf("a stranger's service: %v", err)
	}
	cfg.Server = d.URL
	other, _ := d.Issue(t, "ldevid", "SN-2", "A", profile.Names{})
	foreign, _ := evil.Issue(t, "ldevid", "SN-1", "A", profile.Names{})
	for name, answer := range map[string]map[string]any{
		"another key":  {"certificate": other.Raw, "chain": [][]byte{d.Device.Raw}, "thing": "SN-2"},
		"another root": {"certificate": foreign.Raw, "chain": [][]byte{evil.Device.Raw}, "thing": "SN-1"},
		"no DER":       {"certificate": []byte("x"), "thing": "SN-1"},
	} {
		answer["trust_bundle"], answer["configuration"], answer["policies"], answer["status"] = [][]byte{}, map[string]string{}, []string{}, "ACTIVE"
		d.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(answer)
			return false
		}
		if _, err := FirstBoot(t.Context(), cfg); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.Intercept = nil
	if _, err := FirstBoot(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}

func TestFirstBoot_OneAgentPerDirectory(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	cfg, _ := install(t, d, "SN-1")
	cfg.step = func(s string) error {
		if s == "connect" {
			second := cfg
			second.step = nil
			if _, err := FirstBoot(context.Background(), second); !errors.Is(err, ErrBusy) {
				t.Errorf("a second agent: %v", err)
			}
		}
		return nil
	}
	if _, err := FirstBoot(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := FirstBoot(t.Context(), Config{Dir: t.TempDir(), Server: d.URL, Roots: d.Pool()}); !errors.Is(err, ErrIdentity) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := FirstBoot(t.Context(), Config{Dir: cfg.Dir, Server: "http://x", Roots: d.Pool()}); !errors.Is(err, ErrServer) {
		t.Errorf("plain http: %v", err)
	}
}
