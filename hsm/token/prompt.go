package token

import (
	"fmt"
	"os"

	"golang.org/x/term"
)

// The sources of a PIN that are no place.
const (
	// SourcePrompt has the terminal ask.
	SourcePrompt = "prompt:"
	// SourceProtected leaves it to the token, which has a keypad of its own
	// (CKF_PROTECTED_AUTHENTICATION_PATH): no PIN passes through this process.
	SourceProtected = "protected:"
)

// AskTerminal asks at the terminal of this process, if it has one.
func AskTerminal(id ID, reason string) (Secret, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return Secret{}, ErrPINMissing.Wrap(err, "There is no terminal to ask at; name another pin-source.")
	}
	defer tty.Close()
	fmt.Fprintf(tty, "PIN of the token %q (serial %q) %s: ", id.Label, id.Serial, reason)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return Secret{}, ErrPINMissing.Wrap(err, "The PIN cannot be read.")
	}
	defer clear(b)
	if len(b) == 0 || len(b) > maxSecret {
		return Secret{}, ErrPINMissing.New("No PIN was typed.")
	}
	return NewSecret(b), nil
}
