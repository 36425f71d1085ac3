package device

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/fleet/ownership"
)

// TestReset_IsAsTheFactoryMadeIt: after a reset on both sides the device has nothing of
// its old life, boots again, and an agent that only lost its certificate finds back too.
func TestReset_IsAsTheFactoryMadeIt(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	cfg, _ := install(t, d, "SN-1")
	if _, err := FirstBoot(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	old := whole(t, cfg)
	for _, name := range []string{journalFile, rotationFile, stateFile} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Reset(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		switch name := filepath.Base(path); {
		case err != nil || e.IsDir() || strings.HasPrefix(name, "idevid.") || name == "trust.pem" || name == retiredFile || strings.HasSuffix(name, "lock"):
		default:
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	by := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "sam"}
	if _, _, err := d.Owners.Do(t.Context(), by, ownership.Wanted{Name: "r", Kind: ownership.Reset, Units: []string{"SN-1"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := FirstBoot(t.Context(), cfg)
	if err != nil || out.Resumed || out.Thing != "thing-SN-1" || whole(t, cfg).Equal(old) {
		t.Fatalf("%+v %v", out, err)
	}
	// Without the device's side: what runs finds that its certificate is gone.
	if _, _, err := d.Owners.Do(t.Context(), by, ownership.Wanted{Name: "s", Kind: ownership.Reset, Units: []string{"SN-1"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.again = true
	if again, err := FirstBoot(t.Context(), cfg); err != nil || again.Serial == out.Serial {
		t.Errorf("%+v %v", again, err)
	}
	if err := Reset(t.TempDir()); err == nil {
		t.Error("a directory without a birth certificate is reset")
	}
}
