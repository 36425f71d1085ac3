package device

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestBackoff_GrowsToItsBoundAndIsSpread(t *testing.T) {
	b := Backoff{Min: time.Second, Max: 10 * time.Second}
	for failures, bound := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		var least, most time.Duration = bound, 0
		for range 200 {
			w := b.Wait(failures)
			least, most = min(least, w), max(most, w)
		}
		if least < 0 || most >= bound || most < bound/2 || least > bound/2 {
			t.Errorf("after %d: %v to %v, bound %v", failures, least, most, bound)
		}
	}
}

func TestLoadAllowList_RefusesWhatIsUnsafe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "allow.json")
	write := func(text string, perm os.FileMode) {
		t.Helper()
		os.Remove(name)
		if err := os.WriteFile(name, []byte(text), perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, perm); err != nil {
			t.Fatal(err)
		}
	}
	good := `{"commands":[{"command":["/bin/true"],"seconds":5,"restartable":true}]}`
	write(good, 0o644)
	if list, err := LoadAllowList(name); err != nil || len(list) != 1 || list[0].limit() != 5*time.Second || !list[0].Restartable {
		t.Errorf("%+v %v", list, err)
	}
	write(good, 0o666)
	if _, err := LoadAllowList(name); !errors.Is(err, ErrAllowList) {
		t.Errorf("writable by all: %v", err)
	}
	for _, text := range []string{``, `{"commands":[{"command":["true"]}]}`, `{"commands":[{"command":[]}]}`, `{"commands":[{"command":["/bin/true"],"shell":true}]}`, `{"commands":[],"commands":[]}`, `{"commands":[{"command":["/bin/true"],"seconds":-1}]}`} {
		write(text, 0o600)
		if _, err := LoadAllowList(name); !errors.Is(err, ErrAllowList) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAllowed_IsWordForWord(t *testing.T) {
	list := []Command{{Command: []string{"/bin/echo", "a b"}}}
	for _, argv := range [][]string{{"/bin/echo", "a", "b"}, {"/bin/echo"}, {"/bin/echo", "a b", ""}, {"/bin/echo", "*"}, nil, {"echo", "a b"}} {
		if allowed(list, argv) != nil {
			t.Errorf("%q is allowed", argv)
		}
	}
	if allowed(list, []string{"/bin/echo", "a b"}) == nil {
		t.Error("what is in the list is not allowed")
	}
}

func TestShort_FitsADetail(t *testing.T) {
	var said tail
	for range 100 {
		said.Write([]byte(strings.Repeat("ä", 30) + "\x1b[31m\x00\xff\n"))
	}
	s := said.String()
	if len(s) > maxDetail || len(s) < maxDetail/2 || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\x1b") {
		t.Errorf("%d bytes %q", len(s), s)
	}
}

func TestMerge_LeavesItsArgumentsAlone(t *testing.T) {
	old := map[string]any{"a": map[string]any{"x": 1, "y": 2}, "b": []any{1}}
	got := merge(old, map[string]any{"a": map[string]any{"x": nil, "z": 3}, "b": []any{2}, "c": true})
	if !reflect.DeepEqual(got, map[string]any{"a": map[string]any{"y": 2, "z": 3}, "b": []any{2}, "c": true}) {
		t.Errorf("%v", got)
	}
	if !reflect.DeepEqual(old, map[string]any{"a": map[string]any{"x": 1, "y": 2}, "b": []any{1}}) {
		t.Errorf("%v", old)
	}
}

func TestObjectNamed_AddsToTheName(t *testing.T) {
	for uri, want := range map[string]string{
		"pkcs11:token=t;object=k?pin-source=file:/pin": "pkcs11:token=t;object=k-A-x?pin-source=file:/pin",
		"pkcs11:token=t": "pkcs11:token=t;object=A-x",
	} {
		if got, err := objectNamed(uri, "A-x"); err != nil || got != want {
			t.Errorf("%s %v", got, err)
		}
	}
	if _, err := objectNamed("pkcs11:object=k", "x"); err == nil {
		t.Error("a URI without a token is taken")
	}
}

// Whatever a job says: it is refused with a reason, or it is one of the three
// operations, and a command only if it is in the list.
func FuzzPlan(f *testing.F) {
	for _, s := range []string{`{"operation":"echo","message":"x"}`, `{"operation":"command","command":["/bin/true"]}`, `{"operation":"command","command":["/bin/false"]}`, `{"operation":"reboot-simulated"}`, `{}`, `[]`, `{"operation":"echo","operation":"command"}`} {
		f.Add([]byte(s))
	}
	list := []Command{{Command: []string{"/bin/true"}, Restartable: true}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		op, no, ok := plan(raw, list, time.Second)
		if ok != (op.do != nil) || !ok && (no.status != rejected || no.details["reason"] == "" || len(no.details["reason"]) > maxDetail) {
			t.Errorf("%v %+v", ok, no)
		}
		var d document
		if ok && (json.Unmarshal(raw, &d) != nil || d.Operation == "command" && !slices.Equal(d.Command, list[0].Command)) {
			t.Errorf("allowed: %s", raw)
		}
	})
}
