package ca

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"time"
)

// SerialLen is the length of every serial number we draw, in octets; RFC 5280,
// Section 4.1.2.2 allows at most 20.
const SerialLen = 20

// Serial is a certificate serial number (S4): two marker bits 01, a 30-bit
// count of days since 1970, 128 random bits, most significant first. The marker
// keeps it positive and of one width. It rises from day to day, which keeps
// lists compressible, and shows no production schedule finer than a day.
type Serial [SerialLen]byte

// serialDays is the width of the day counter; its last day is in the year 2.9 million.
const serialDays = 1<<30 - 1

// NewSerial draws a serial number for the day of now. The random source is
// crypto/rand unless a test gives its own.
func NewSerial(now time.Time, random io.Reader) (Serial, error) {
	var s Serial
	day := uint32(now.Unix()/86400)&serialDays | 1<<30
	s[0], s[1], s[2], s[3] = byte(day>>24), byte(day>>16), byte(day>>8), byte(day)
	if random == nil {
		random = rand.Reader
	}
	if _, err := io.ReadFull(random, s[4:]); err != nil {
		return Serial{}, fmt.Errorf("ca: draw serial number: %w", err)
	}
	return s, nil
}

// ParseSerial reads the hexadecimal form, with or without colons.
func ParseSerial(text string) (Serial, error) {
	var s Serial
	b := make([]byte, 0, 2*SerialLen)
	for i := range len(text) {
		if text[i] != ':' {
			b = append(b, text[i])
		}
	}
	if len(b) != 2*SerialLen {
		return s, ErrInvalidRequest.New("A serial number is %d hexadecimal digits, not %d.", 2*SerialLen, len(b))
	}
	if _, err := hex.Decode(s[:], b); err != nil {
		return s, ErrInvalidRequest.New("The serial number is not hexadecimal.")
	}
	return s, nil
}

// SerialFromInt converts a parsed certificate's number; false if it is not one of ours.
func SerialFromInt(n *big.Int) (Serial, bool) {
	var s Serial
	if n == nil || n.Sign() <= 0 || n.BitLen() > 8*SerialLen {
		return s, false
	}
	n.FillBytes(s[:])
	return s, s[0]>>6 == 1
}

// Int is the number as crypto/x509 wants it.
func (s Serial) Int() *big.Int { return new(big.Int).SetBytes(s[:]) }

// String is the lower-case hexadecimal form, as openssl prints it but for case.
func (s Serial) String() string { return hex.EncodeToString(s[:]) }
