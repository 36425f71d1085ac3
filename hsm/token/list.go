package token

// Info is what a token says of itself without a PIN.
type Info struct {
	ID
	Scheme        string
	Reader        string   // of a card
	Algorithms    []string // that it can sign with
	Sessions      int      // most at once, 0 = not said
	LoginRequired bool
	PINPad        bool // takes the PIN at a device of its own
	PINLow        bool // somebody failed since the last login
	PINFinalTry   bool
	PINLocked     bool
}

// KeyInfo is a private key in a token.
type KeyInfo struct {
	Attributes
	Object      string
	ID          []byte
	PINEachTime bool
	Note        string // why there is no public key
}

// Wrapping is what protected a key on its way from one token to another.
type Wrapping struct {
	SPKI      []byte // of the RSA key that the second token made for this transfer
	KEK       string
	Mechanism string
	Destroyed bool
}
