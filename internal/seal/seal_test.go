package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func box(t *testing.T) (*Box, []byte) {
	t.Helper()
	master := make([]byte, MasterSize)
	rand.Read(master)
	b, err := Open(master)
	if err != nil {
		t.Fatal(err)
	}
	return b, master
}

// S39: table, row and column are part of the seal.
func TestBox_UnsealsOnlyInItsPlace_S39(t *testing.T) {
	b, _ := box(t)
	for _, plain := range [][]byte{nil, []byte("hook secret"), make([]byte, 100_000)} {
		sealed := b.Seal(plain, "hooks", "7", "secret")
		if len(sealed) != len(plain)+Overhead {
			t.Errorf("sealed value has %d octets", len(sealed))
		}
		got, err := b.Unseal(sealed, "hooks", "7", "secret")
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %q, %v", got, err)
		}
		for _, aad := range [][]string{nil, {"hooks", "8", "secret"}, {"hooks", "7secret", ""}, {"hooks7", "", "secret"}, {"hooks", "7", "secret", ""}, {"hooks", "7"}} {
			if _, err := b.Unseal(sealed, aad...); !errors.Is(err, ErrSealBroken) {
				t.Errorf("as %q: %v", aad, err)
			}
		}
	}
	if bytes.Equal(b.Seal([]byte("x")), b.Seal([]byte("x"))) {
		t.Error("two seals of one value are equal")
	}
}

func TestBox_NoticesEveryChangedOctet(t *testing.T) {
	b, _ := box(t)
	sealed := b.Seal([]byte("secret"), "t")
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := b.Unseal(bad, "t"); err == nil {
			t.Errorf("octet %d changed and taken", i)
		}
		if _, err := b.Unseal(sealed[:i], "t"); err == nil {
			t.Errorf("cut to %d and taken", i)
		}
	}
	other, _ := box(t)
	if _, err := other.Unseal(sealed, "t"); !errors.Is(err, ErrOtherKey) {
		t.Errorf("under another master: %v", err)
	}
}

// S32: a database writer cannot make a row the service believes.
func TestBox_VerifiesRows_S32(t *testing.T) {
	b, master := box(t)
	f := func(s ...string) (out [][]byte) {
		for _, x := range s {
			out = append(out, []byte(x))
		}
		return out
	}
	mac := b.MAC("grants", f("7", "ab", "c")...)
	again, err := Open(master)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(mac, "grants", f("7", "ab", "c")...); err != nil {
		t.Fatalf("the same master does not verify after a restart: %v", err)
	}
	for _, c := range []struct {
		domain string
		fields [][]byte
	}{
		{"hooks", f("7", "ab", "c")},
		{"grants", f("8", "ab", "c")},
		{"grants", f("7", "a", "bc")},
		{"grants", f("7", "ab", "c", "")},
		{"grants", f("7", "abc")},
		{"grants7", f("ab", "c")},
	} {
		if err := b.Verify(mac, c.domain, c.fields...); !errors.Is(err, ErrMACMismatch) {
			t.Errorf("%s %q: %v", c.domain, c.fields, err)
		}
	}
	for _, bad := range [][]byte{nil, mac[:31], append(bytes.Clone(mac), 0), make([]byte, MACSize)} {
		if b.Verify(bad, "grants", f("7", "ab", "c")...) == nil {
			t.Errorf("%x taken", bad)
		}
	}
	other, _ := box(t)
	if other.Verify(mac, "grants", f("7", "ab", "c")...) == nil {
		t.Error("another master verifies")
	}
}

func TestBox_NeverPrintsKeys(t *testing.T) {
	b, _ := box(t)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "box", b)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "box", b)
	j, err := json.Marshal(map[string]any{"box": b})
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%q", "%d"} {
		out += fmt.Sprintf(verb, b)
	}
	for _, key := range [][]byte{b.seal, b.mac} {
		for _, form := range []string{fmt.Sprintf("%x", key), fmt.Sprint(key), string(key)} {
			if strings.Contains(out, form) {
				t.Error("a key shows")
			}
		}
	}
	if strings.Count(out, redacted) != 10 {
		t.Errorf("got %s", out)
	}
}

func TestCreate_MakesOneKeyAndNeverReplacesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	var wg sync.WaitGroup
	made := make(chan *Box, 8)
	for range 8 {
		wg.Go(func() {
			b, err := Create(path)
			if err == nil {
				made <- b
			} else if !errors.Is(err, ErrKeyExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(made) != 1 {
		t.Fatalf("%d of 8 made a key", len(made))
	}
	loaded, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.Unseal((<-made).Seal([]byte("x"))); err != nil || string(got) != "x" {
		t.Fatal(err)
	}
	info, _ := os.Stat(path)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

func TestLoad_RefusesFilesThatAreNoSecretKey(t *testing.T) {
	dir := t.TempDir()
	key := make([]byte, MasterSize)
	rand.Read(key)
	write := func(name string, data []byte, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, p := range map[string]string{
		"readable by group":  write("group", key, 0o640),
		"readable by others": write("others", key, 0o604),
		"short":              write("short", key[:31], 0o600),
		"long":               write("long", append(key, 0), 0o600),
		"empty":              write("empty", nil, 0o600),
		"zeros":              write("zeros", make([]byte, MasterSize), 0o600),
		"directory":          dir,
		"absent":             filepath.Join(dir, "absent"),
	} {
		if _, err := Load(p); !errors.Is(err, ErrKeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	credential := write("credential", key, 0o440)
	if _, err := Load(credential); err == nil {
		t.Error("group-readable file taken outside the credentials directory")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := Load(credential); err != nil {
		t.Errorf("systemd credential: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "others")); err == nil {
		t.Error("world-readable credential taken")
	}
}

func FuzzBox_Unseal(f *testing.F) {
	b, err := Open([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Seal([]byte("seed"), "t"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if plain, err := b.Unseal(in, "u"); err == nil {
			t.Fatalf("forged %q", plain)
		}
	})
}
