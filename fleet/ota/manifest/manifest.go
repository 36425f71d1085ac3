package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

const (
	form        = 1
	maxName     = 64
	maxHardware = 32
	maxImage    = 1 << 32 // octets of an image

	// MaxSize is the most octets of a signed manifest: it goes to devices in a job.
	MaxSize = 12 << 10
	// maxEnd is the latest time that Go and RFC 3339 can write: the year 9999.
	maxEnd = 253402300799
)

// Manifest is what the signers of firmware say about an image.
type Manifest struct {
	Class    string   // product class that the image is for
	Version  Version  // of the image
	Floor    Version  // a device that has run this image never again takes one below
	Requires Version  // a device has at least this before; "" asks for nothing
	Hardware []string // that it fits, in the order of the alphabet
	Size     int64
	Digest   [sha256.Size]byte // SHA-256
	Expires  time.Time         // it is not installed later; whole seconds
}

// wire is a Manifest's CBOR map. The numbers are part of the form.
type wire struct {
	Form     uint64   `cbor:"1,keyasint"`
	Class    string   `cbor:"2,keyasint"`
	Version  string   `cbor:"3,keyasint"`
	Floor    string   `cbor:"4,keyasint"`
	Requires string   `cbor:"5,keyasint,omitempty"`
	Hardware []string `cbor:"6,keyasint"`
	Size     uint64   `cbor:"7,keyasint"`
	Digest   []byte   `cbor:"8,keyasint"`
	Expires  uint64   `cbor:"9,keyasint"`
}

var (
	encoder = must(cbor.CoreDetEncOptions().EncMode())
	decoder = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 16, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above, at the start of the program
	}
	return v
}

// ParseName checks a product class or the name of a hardware.
func ParseName(s string) error {
	ok := s != "" && len(s) <= maxName && s[0] != '.'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	if !ok {
		return ErrManifest.New("%.80q: a name of a class or of hardware has 1 to %d of a-z A-Z 0-9 . _ - and does not begin with a point.", s, maxName)
	}
	return nil
}

// Check tells whether a manifest is possible.
func (m *Manifest) Check() error {
	if err := ParseName(m.Class); err != nil {
		return err
	}
	versions := []Version{m.Version, m.Floor}
	if m.Requires != "" {
		versions = append(versions, m.Requires)
	}
	for _, v := range versions {
		if _, err := ParseVersion(string(v)); err != nil {
			return err
		}
	}
	if len(m.Hardware) == 0 || len(m.Hardware) > maxHardware {
		return ErrManifest.New("It names 1 to %d kinds of hardware.", maxHardware)
	}
	for i, h := range m.Hardware {
		if err := ParseName(h); err != nil {
			return err
		}
		if i > 0 && m.Hardware[i-1] >= h {
			return ErrManifest.New("Its hardware is not in the order of the alphabet, each once.")
		}
	}
	switch end := m.Expires.Unix(); {
	case m.Version.Compare(m.Floor) < 0:
		return ErrManifest.New("Its version is below its own floor.")
	case m.Size < 1 || m.Size > maxImage:
		return ErrManifest.New("An image has 1 to %d octets.", int64(maxImage))
	case end < 1 || end > maxEnd || !m.Expires.Equal(time.Unix(end, 0)):
		return ErrManifest.New("It ends at a whole second, before the year 10000.")
	}
	return nil
}

func (m *Manifest) encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	return encoder.Marshal(wire{form, m.Class, string(m.Version), string(m.Floor), string(m.Requires), m.Hardware, uint64(m.Size), m.Digest[:], uint64(m.Expires.Unix())})
}

// decode reads the one encoding that a manifest has.
func decode(raw []byte) (*Manifest, error) {
	var w wire
	if err := decoder.Unmarshal(raw, &w); err != nil {
		return nil, ErrManifest.Wrap(err, "")
	}
	if w.Form != form || len(w.Digest) != sha256.Size || w.Size > maxImage || w.Expires > maxEnd {
		return nil, ErrManifest.New("It is of another form, or a value of it is not possible.")
	}
	m := &Manifest{Class: w.Class, Version: Version(w.Version), Floor: Version(w.Floor), Requires: Version(w.Requires), Hardware: w.Hardware, Size: int64(w.Size), Digest: [sha256.Size]byte(w.Digest), Expires: time.Unix(int64(w.Expires), 0).UTC()}
	again, err := m.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, ErrManifest.New("It is not in the deterministic encoding.")
	}
	return m, nil
}

// DigestHex is the digest as it is written.
func (m *Manifest) DigestHex() string { return hex.EncodeToString(m.Digest[:]) }

// Device is what a device knows of itself.
type Device struct {
	Class    string
	Hardware string
	Version  Version // that runs
	Floor    Version // the highest of all that it has run
}

// Fits tells whether a device may install the image now. Which comes first when
// several things are wrong is part of the form: the code that is reported is the
// same on every device.
func (m *Manifest) Fits(d Device, now time.Time) error {
	switch {
	case m.Class != d.Class:
		return ErrClass.New("It is for %s, the device is %s.", m.Class, d.Class)
	case !slices.Contains(m.Hardware, d.Hardware):
		return ErrHardware.New("It is for %s, the device is %s.", strings.Join(m.Hardware, ", "), d.Hardware)
	case m.Expired(now):
		return ErrExpired.New("It ended at %s.", m.Expires.Format(time.RFC3339))
	case m.Version.Compare(d.Floor) < 0:
		return ErrFloor.New("It is %s, the floor is %s.", m.Version, d.Floor)
	case m.Requires != "" && d.Version.Compare(m.Requires) < 0:
		return ErrRequires.New("It needs %s, the device has %s.", m.Requires, d.Version)
	}
	return nil
}

// Expired tells whether the time for installing is over.
func (m *Manifest) Expired(now time.Time) bool { return !now.Before(m.Expires) }

// Image checks an image while it is written somewhere.
type Image struct {
	m *Manifest
	h hash.Hash
	n int64
}

// NewImage begins a check.
func (m *Manifest) NewImage() *Image { return &Image{m: m, h: sha256.New()} }

// Write implements [io.Writer]; it refuses more octets than were signed.
func (i *Image) Write(p []byte) (int, error) {
	if i.n += int64(len(p)); i.n > i.m.Size {
		return 0, ErrImage.New("It has more than the %d octets that were signed.", i.m.Size)
	}
	return i.h.Write(p)
}

// Done tells whether all of the image was written and is the one that was signed.
func (i *Image) Done() error {
	if i.n != i.m.Size {
		return ErrImage.New("It has %d octets of %d.", i.n, i.m.Size)
	}
	if !bytes.Equal(i.h.Sum(nil), i.m.Digest[:]) {
		return ErrImage.New("Its SHA-256 is another.")
	}
	return nil
}

// CheckImage checks a whole image.
func (m *Manifest) CheckImage(r io.Reader) error {
	i := m.NewImage()
	if _, err := io.Copy(i, r); err != nil {
		return err
	}
	return i.Done()
}
