package token

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const redacted = "[redacted]"

// maxSecret bounds what is read as a PIN or passphrase.
const maxSecret = 1024

// Secret is a PIN or passphrase. It prints, logs and marshals as "[redacted]".
type Secret struct{ b []byte }

// NewSecret copies b.
func NewSecret(b []byte) Secret { return Secret{bytes.Clone(b)} }

// Reveal gives the bytes themselves, for the one call that needs them.
func (s Secret) Reveal() []byte { return s.b }

// Empty says whether there is no secret.
func (s Secret) Empty() bool { return len(s.b) == 0 }

// Wipe overwrites the bytes.
func (s Secret) Wipe() { clear(s.b) }

// String hides the secret.
func (s Secret) String() string { return redacted }

// Format hides the secret from every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// ID names a token as it names itself.
type ID struct {
	Label        string
	Manufacturer string
	Model        string
	Serial       string
	Firmware     string
}

// PINSource gives the PIN of a token. It is asked once per token and start;
// reason is a sentence for a person. Implementations are safe for concurrent use.
type PINSource interface {
	PIN(ctx context.Context, id ID, reason string) (Secret, error)
}

// PINFunc makes a function a PINSource.
type PINFunc func(ctx context.Context, id ID, reason string) (Secret, error)

// PIN calls f.
func (f PINFunc) PIN(ctx context.Context, id ID, reason string) (Secret, error) {
	return f(ctx, id, reason)
}

// ReadSource reads a secret from a source as named in a URI: "file:/path" or
// "/path" (a regular file that nobody else can read), "env:NAME", or
// "credential:NAME" (a file that systemd put into $CREDENTIALS_DIRECTORY).
// One line end after the secret is dropped.
func ReadSource(source string) (Secret, error) {
	kind, rest, ok := strings.Cut(source, ":")
	switch {
	case strings.HasPrefix(source, "/"):
		return readSecretFile(source, true)
	case ok && kind == "file":
		rest = strings.TrimPrefix(rest, "//")
		if !strings.HasPrefix(rest, "/") {
			return Secret{}, ErrPINMissing.New("The file source needs an absolute path.")
		}
		return readSecretFile(rest, true)
	case ok && kind == "env":
		v, set := os.LookupEnv(rest)
		if !set || v == "" {
			return Secret{}, ErrPINMissing.New("The environment has no %s.", rest)
		}
		return Secret{[]byte(v)}, nil
	case ok && kind == "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || rest == "" || rest != filepath.Base(rest) {
			return Secret{}, ErrPINMissing.New("There is no systemd credential %q.", rest)
		}
		// systemd itself guards this directory and may set mode 0440.
		return readSecretFile(filepath.Join(dir, rest), false)
	}
	return Secret{}, ErrPINMissing.New("A source is file:/path, env:NAME, credential:NAME, prompt: or protected:.")
}

func readSecretFile(name string, strict bool) (Secret, error) {
	f, err := os.Open(name)
	if err != nil {
		return Secret{}, ErrPINMissing.Wrap(err, "The file cannot be opened.")
	}
	defer f.Close()
	// The opened file is checked, not its name, so that a swap cannot slip between.
	st, err := f.Stat()
	if err != nil {
		return Secret{}, ErrPINMissing.Wrap(err, "The file cannot be examined.")
	}
	if !st.Mode().IsRegular() {
		return Secret{}, ErrPINMissing.New("%s is not a regular file.", name)
	}
	if strict {
		if err := CheckPrivate(st); err != nil {
			return Secret{}, ErrPINMissing.Wrap(err, "%s: %v.", name, err)
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return Secret{}, ErrPINMissing.Wrap(err, "The file cannot be read.")
	}
	if len(b) > maxSecret {
		return Secret{}, ErrPINMissing.New("%s is too long for a secret.", name)
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 {
		return Secret{}, ErrPINMissing.New("%s is empty.", name)
	}
	return Secret{b}, nil
}

// CheckPrivate refuses a file that another user could read or write.
func CheckPrivate(st os.FileInfo) error {
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("mode is %04o, must be 0600 or less", st.Mode().Perm())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if uid := uint32(os.Geteuid()); sys.Uid != uid && sys.Uid != 0 {
			return fmt.Errorf("owner is uid %d, must be %d or root", sys.Uid, uid)
		}
	}
	return nil
}
