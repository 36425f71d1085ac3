package web

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"hallmark/fleet/ownership"
)

// A device that was released asks for as long as nobody accepts it: an error in the log
// would be one that nobody can do anything about.
func TestLogFault_WhatSomebodyDecidedIsNoError(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	logFault(t.Context(), log, ownership.ErrReleased.New("").After(15*time.Minute))
	if got := b.String(); !strings.Contains(got, "level=INFO") || !strings.Contains(got, "device-released") {
		t.Errorf("%q", got)
	}
	b.Reset()
	logFault(t.Context(), log, ErrNotReady.New(""))
	if got := b.String(); !strings.Contains(got, "level=ERROR") {
		t.Errorf("%q", got)
	}
}
