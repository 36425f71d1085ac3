package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecret_HidesFromEveryPrinter(t *testing.T) {
	s := NewSecret([]byte("hunter2"))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "pin", s, "uri", URI{PINValue: s})
	js, err := json.Marshal(map[string]any{"pin": s, "uri": URI{PINValue: s}})
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%v %+v %#v %s %q %x %X %d %v", s, s, s, s, s, s, s, s, URI{PINValue: s}) + log.String() + string(js)
	for _, leak := range []string{"hunter2", "68756e74657232", "68756E74657232", "104 117", "0x68", "aHVudGVyMg"} {
		if strings.Contains(text, leak) {
			t.Errorf("%q in %s", leak, text)
		}
	}
	s.Wipe()
	if bytes.Contains(s.Reveal(), []byte("hunter2")) {
		t.Error("not wiped")
	}
}

func TestReadSource_ReadsPrivateFilesEnvironmentAndCredentials(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pin")
	if err := os.WriteFile(file, []byte("1234\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_PIN", "1234")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for _, source := range []string{"file:" + file, "file://" + file, file, "env:TEST_PIN", "credential:pin"} {
		s, err := ReadSource(source)
		if err != nil || string(s.Reveal()) != "1234" {
			t.Errorf("%s: %q, %v", source, s.Reveal(), err)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("1234"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, maxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"file:" + open, "file:" + empty, "file:" + long, "file:" + dir, "file:pin", "file:" + dir + "/none",
		"env:TEST_NO_PIN", "credential:../pin", "credential:", "1234", "", "|/bin/prompt"} {
		if s, err := ReadSource(source); !Fault(err, ErrPINMissing) || !s.Empty() {
			t.Errorf("%s: %v", source, err)
		}
	}
}
