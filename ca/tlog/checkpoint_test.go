package tlog_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"hallmark/ca/tlog"
	"hallmark/internal/fault"
)

// A service whose base URL was changed has a log of another name: the refusal says which
// name was expected and which is there.
func TestParseCheckpoint_NamesTheOriginThatItHasAndTheOneThatIsWanted(t *testing.T) {
	private, _, err := note.GenerateKey(rand.Reader, "old.example/log")
	if err != nil {
		t.Fatal(err)
	}
	_, public, err := note.GenerateKey(rand.Reader, "new.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: "old.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tlog.ParseCheckpoint(signed, public)
	detail := fault.From(err).Detail
	if !errors.Is(err, tlog.ErrCheckpoint) || !strings.Contains(detail, `"old.example/log"`) || !strings.Contains(detail, `"new.example/log"`) {
		t.Errorf("%v", err)
	}
}
