package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"hallmark/store"
)

func TestCommand_SaysThatNothingAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + l.Addr().String()
	l.Close()
	t.Setenv("HALLMARK_TOKEN", "hmk_test")
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"order", "list", "--server", url}, strings.NewReader(""), &out, &errOut)
	if text := errOut.String(); code != exitFault || !strings.Contains(text, "cli-no-answer") || !strings.Contains(text, url) || !strings.Contains(text, "hallmark serve") {
		t.Errorf("code %d: %s", code, text)
	}
}

func TestDemo_LeavesADirectoryThatIsServedAlone(t *testing.T) {
	d := &stage{g: &globals{Out: io.Discard, Err: io.Discard, Now: time.Now}, dir: t.TempDir(), hsm: "software", freePorts: true}
	if err := d.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(d.path("hallmark.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	box, err := openSeal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{URL: cfg.Database, Seal: box})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.prepare(t.Context()); !errors.Is(err, errDemoServes) {
		t.Errorf("while it is served: %v", err)
	}
	if _, err := os.Stat(cfg.Database); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.prepare(t.Context()); err != nil {
		t.Errorf("when it is not: %v", err)
	}
}

func TestDemo_SaysHowToServeItAgain(t *testing.T) {
	d := &stage{dir: "/tmp/a demo", env: []string{"SOFTHSM2_CONF=/tmp/a demo/keys/softhsm/softhsm2.conf"}}
	if got, want := d.again(), `SOFTHSM2_CONF='/tmp/a demo/keys/softhsm/softhsm2.conf' hallmark serve --config '/tmp/a demo/hallmark.yaml'`; got != want {
		t.Errorf("%s", got)
	}
}
