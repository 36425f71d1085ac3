package blobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/durable"
)

var _ ota.Blobs = Directory{}

// Directory keeps blobs in files. Several services may share it.
type Directory struct{ Dir string }

// place is a blob's name below a directory or bucket. The names that come in were
// checked by whoever knows them; this only keeps them from being a path.
func place(tenant, digest string) (string, error) {
	raw, err := hex.DecodeString(digest)
	if err != nil || len(raw) != sha256.Size || tenant == "" || tenant[0] == '.' || strings.ContainsAny(tenant, "/\\\x00") {
		return "", ota.ErrBlob.New("There is no image of the name %.80q.", digest)
	}
	return tenant + "/" + digest[:2] + "/" + digest, nil
}

// Put implements [ota.Blobs].
func (d Directory) Put(ctx context.Context, tenant, digest string, size int64, r io.Reader) (err error) {
	at, err := place(tenant, digest)
	if err != nil {
		return err
	}
	name := filepath.Join(d.Dir, filepath.FromSlash(at))
	if s, err := os.Stat(name); err == nil && s.Size() == size {
		_, err := check(io.Discard, digest, size, r) // whoever sends another file is told so
		return err
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".upload-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = check(f, digest, size, r); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	for dir := dir; len(dir) >= len(filepath.Clean(d.Dir)); dir = filepath.Dir(dir) {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// check copies what has the digest and size, and refuses anything else.
func check(w io.Writer, digest string, size int64, r io.Reader) (int64, error) {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, size+1))
	if err != nil {
		return n, err
	}
	if n != size {
		return n, manifest.ErrImage.New("It has not the %d octets that it should have.", size)
	}
	if hex.EncodeToString(h.Sum(nil)) != digest {
		return n, manifest.ErrImage.New("Its SHA-256 is another.")
	}
	return n, nil
}

// Open implements [ota.Blobs].
func (d Directory) Open(_ context.Context, tenant, digest string) (ota.Blob, error) {
	at, err := place(tenant, digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(d.Dir, filepath.FromSlash(at)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ota.ErrBlob.Wrap(err, "The image %.16s… is not there.", digest)
	}
	if err != nil {
		return nil, err
	}
	s, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return file{f, s.Size()}, nil
}

type file struct {
	*os.File
	size int64
}

// Size implements [ota.Blob].
func (f file) Size() int64 { return f.size }
