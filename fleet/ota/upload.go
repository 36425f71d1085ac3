package ota

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"hallmark/fleet/ota/manifest"
)

// UploadPart takes the next part of an image into the directory for what is not whole
// yet, and gives how much there is: the whole image is in the store once that is its
// size. A part that does not follow what is there is not taken, and whoever sends goes
// on from the number that it gets.
func (s *Service) UploadPart(ctx context.Context, tenant, digest string, size, offset int64, octets []byte) (have int64, err error) {
	if s.cfg.Trust == nil || s.cfg.Staging == "" {
		return 0, ErrOff.New("")
	}
	if raw, err := hex.DecodeString(digest); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != digest {
		return 0, manifest.ErrImage.New("Its SHA-256 is 64 of 0-9 a-f.")
	}
	if size < 1 || size > MaxImage || offset < 0 || offset+int64(len(octets)) > size {
		return 0, manifest.ErrImage.New("An image has 1 to %d octets, and no part goes beyond them.", MaxImage)
	}
	if b, err := s.cfg.Blobs.Open(ctx, tenant, digest); err == nil {
		defer b.Close()
		if b.Size() == size {
			return size, nil
		}
	}
	name := hex.EncodeToString([]byte(tenant)) + "-" + digest + "-" + strconv.FormatInt(size, 10)
	done, err := s.sends.begin(ctx, name)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := os.MkdirAll(s.cfg.Staging, 0o700); err != nil {
		return 0, err
	}
	if offset == 0 {
		s.sweep()
	}
	name = filepath.Join(s.cfg.Staging, name)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if have = st.Size(); have == offset {
		if _, err := f.WriteAt(octets, offset); err != nil {
			return 0, err
		}
		have += int64(len(octets))
	}
	if have < size {
		return have, nil
	}
	// Whole, and not in the store: now, or because that did not go before. It may take
	// longer than whoever sends waits for an answer, and goes on without them.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	err = s.Upload(ctx, tenant, digest, size, f)
	if err == nil || errors.Is(err, manifest.ErrImage) { // whole, or never will be
		if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return 0, err
	}
	return size, nil
}

const (
	storeWithin = time.Hour
	keepPart    = 7 * 24 * time.Hour // of an image of which nothing more came
)

// sweep removes what nobody goes on with. What cannot be removed stays: the disk says
// so soon enough.
func (s *Service) sweep() {
	es, _ := os.ReadDir(s.cfg.Staging)
	for _, e := range es {
		if i, err := e.Info(); err == nil && s.now().Sub(i.ModTime()) > keepPart {
			os.Remove(filepath.Join(s.cfg.Staging, e.Name()))
		}
	}
}

// sends are the images that come in parts: one part of each at a time.
type sends struct {
	mu  sync.Mutex
	now map[string]chan struct{} // closed when the part before is done with
}

// begin waits for the part before, and gives what ends this one.
func (s *sends) begin(ctx context.Context, name string) (done func(), err error) {
	for {
		s.mu.Lock()
		before, busy := s.now[name]
		if !busy {
			break
		}
		s.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer s.mu.Unlock()
	if s.now == nil {
		s.now = map[string]chan struct{}{}
	}
	mine := make(chan struct{})
	s.now[name] = mine
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.now, name)
		close(mine)
	}, nil
}
