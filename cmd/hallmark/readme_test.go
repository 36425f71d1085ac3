package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/store/storetest"
)

// asProgram makes this test binary the program itself, so that stories run what
// was just compiled, as a process of its own.
const asProgram = "HALLMARK_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if url := os.Getenv(migrateOnly); url != "" {
		migrateMain(url)
		return
	}
	watchContract()
	if os.Getenv(asProgram) == "1" {
		main()
		return
	}
	storetest.Main(m) // it may have to stop a PostgreSQL
}

// programDir is a new directory in which bin/hallmark is the program.
func programDir(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asProgram, self)
	if err := os.WriteFile(filepath.Join(dir, "bin", "hallmark"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var snippet = regexp.MustCompile("(?s)<!-- test -->\n```sh\n(.*?)```")

// TestReadme_CommandsWork runs the README's snippets, in their order and in one
// shell, against a demonstration that runs beside them.
func TestReadme_CommandsWork(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, m := range snippet.FindAllStringSubmatch(string(readme), -1) {
		script.WriteString(m[1])
	}
	if strings.Count(script.String(), "\n") < 8 {
		t.Fatal("README.md has no tested snippets")
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
			t.Fatal("softhsm2-util is missing: scripts/setup.sh")
		}
		t.Skip("softhsm2-util is missing: apt-get install softhsm2")
	}
	dir := programDir(t)
	startDemo(t, dir, "--hsm", "softhsm")

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-x", "-c", script.String())
	c.Dir = dir
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("a command of README.md failed: %v", err)
	}
	if !strings.Contains(string(out), "unit.pem: OK") || !strings.Contains(string(out), "certificate revoked") {
		t.Error("openssl did not first accept and then refuse the certificate")
	}
}

// startDemo starts `hallmark demo` in dir and returns when it told its story,
// whose last act is demo/summary.json, and serves on. The test's end stops it.
func startDemo(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := exec.Command(filepath.Join(dir, "bin", "hallmark"), append([]string{"demo", "--dir", "demo"}, args...)...)
	c.Dir = dir
	var said bytes.Buffer // read after the end only
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	stop := func() {
		c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("the demonstration did not stop within 30 s of SIGTERM")
			c.Process.Kill()
			<-ended
		}
		if bytes.Contains(said.Bytes(), []byte(brokenMark)) {
			t.Error("the service left the contract")
		}
		if t.Failed() {
			t.Logf("the demonstration said:\n%s", said.Bytes())
		}
	}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		select {
		case err := <-ended:
			t.Fatalf("the demonstration ended early: %v\n%s", err, said.Bytes())
		case <-time.After(100 * time.Millisecond):
		}
		if b, err := os.ReadFile(filepath.Join(dir, "demo", "summary.json")); err == nil && json.Valid(b) {
			t.Cleanup(stop)
			return
		}
		if time.Now().After(deadline) {
			t.Error("the demonstration did not write its summary within 3 minutes")
			stop()
			t.FailNow()
		}
	}
}

// TestConfiguration_DocumentsEveryKey holds docs/configuration.md to [Config].
func TestConfiguration_DocumentsEveryKey(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(section string, typ reflect.Type)
	walk = func(section string, typ reflect.Type) {
		text := string(page)
		if section != "" {
			_, rest, ok := strings.Cut(text, "\n## "+section+"\n")
			if !ok {
				t.Errorf("docs/configuration.md has no section %q", section)
				return
			}
			text, _, _ = strings.Cut(rest, "\n## ")
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := f.Tag.Get("yaml")
			if key == "" {
				continue
			}
			if !strings.Contains(text, "| `"+key+"` |") {
				t.Errorf("docs/configuration.md does not explain %s in section %q", key, section)
			}
			inner := f.Type
			if inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				walk(key, inner)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		dir := t.TempDir()
		key := "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
		if err := os.WriteFile(filepath.Join(dir, "ana.pem"), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseConfig([]byte(m[1]), dir); err != nil {
			t.Errorf("an example in docs/configuration.md is refused: %v", err)
		}
	}
}
