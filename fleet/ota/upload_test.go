package ota_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/store/blobs"
)

// flaky is a store of images that is away at times.
type flaky struct {
	ota.Blobs
	away bool
	puts int
}

func (f *flaky) Put(ctx context.Context, tenant, digest string, size int64, r io.Reader) error {
	f.puts++
	if f.away {
		return errAway
	}
	return f.Blobs.Put(ctx, tenant, digest, size, r)
}

var errAway = errors.New("the store is away")

// TestUpload_AStoreThatIsAwayCostsOnlyTheLastPart: what is whole waits for the store, and
// what nobody went on with is not kept for ever.
func TestUpload_AStoreThatIsAwayCostsOnlyTheLastPart(t *testing.T) {
	image := build("1.1", "good")
	m := manifestOf(image, "1.1")
	store, staging := &flaky{Blobs: blobs.Directory{Dir: t.TempDir()}, away: true}, t.TempDir()
	s := ota.New(ota.Config{Blobs: store, Staging: staging, Trust: &manifest.Trust{}})
	send := func(offset, until int64) (int64, error) {
		return s.UploadPart(t.Context(), "main", m.DigestHex(), m.Size, offset, image[offset:until])
	}
	old := filepath.Join(staging, "of-somebody")
	must(t, os.WriteFile(old, nil, 0o600))
	must(t, os.Chtimes(old, time.Time{}, time.Now().Add(-8*24*time.Hour)))
	if have, err := send(0, 1000); have != 1000 || err != nil {
		t.Fatal(have, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a part of last week: %v", err)
	}
	for range 2 { // the last part again, which is there
		if _, err := send(1000, m.Size); !errors.Is(err, errAway) {
			t.Fatal(err)
		}
	}
	store.away = false
	// The sender went away: what is whole is stored all the same.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if have, err := s.UploadPart(gone, "main", m.DigestHex(), m.Size, m.Size, nil); have != m.Size || err != nil || store.puts != 3 {
		t.Fatal(have, err, store.puts)
	}
	if es, err := os.ReadDir(staging); err != nil || len(es) != 0 {
		t.Errorf("%v %v", es, err)
	}
	b, err := store.Open(t.Context(), "main", m.DigestHex())
	must(t, err)
	must(t, b.Close())
}
