// Package vpiv is a virtual PIV card with the extensions that the piv binding
// uses, in a virtual reader of a real pcscd.
//
// The card makes and uses P-256, P-384 and RSA-2048 keys, keeps certificates,
// counts wrong PINs and answers GET METADATA from firmware 5.3 on. It is a test
// double with behaviour: its keys live in memory and protect nothing.
//
// Standards: NIST SP 800-73-4, Part 2; ISO/IEC 7816-4. Start reading at [Card].
package vpiv
