package ca

import (
	"context"
	"time"
)

// Ledger keeps what was promised, what was signed, and what is gone. It is the
// only memory that issuance has. The server's is the database; a station that
// works offline has its spool.
//
// Contract, for whoever implements it:
//
//   - Durable. When a method returns without error, what it did survives a
//     power cut.
//   - Reserve is one transaction. It authorises the requester, account and
//     holder again inside it, finds the identity's reservation or makes one, and
//     takes a unit of the quota when, and only when, the identity is new. Of any
//     number of concurrent calls for one identity and key exactly one makes a
//     reservation and all return that one.
//   - Record is one transaction and a compare-and-swap: the first recorded
//     signature of a reservation wins, a later one is dropped and the first
//     certificate returned. It appends the log leaf in the same transaction, so
//     that no certificate exists outside the log.
//   - Void lists the serial number as revoked; a voided reservation can never be
//     recorded.
//   - After an error of kind Unavailable the outcome is unknown; asking again
//     with the same claim resolves it and never makes a second identity.
type Ledger interface {
	// Reserve returns a reservation that has no certificate yet, or the
	// certificate that was issued for this identity and key before.
	Reserve(ctx context.Context, claim Claim) (Reservation, *Issued, error)
	// Record stores a certificate for a reservation.
	Record(ctx context.Context, r Reservation, der []byte) (Issued, error)
	// Void withdraws a reservation that has no certificate.
	Void(ctx context.Context, serial Serial, reason string) error
}

// Identity names what a certificate is for. At most one certificate of an
// identity is live at a time (S10).
type Identity struct {
	Tenant  string
	Holder  string // the unit, station or service; compared without case
	Profile string
	Slot    string // "" where the profile has one slot; "A" or "B" where two may overlap
}

// Requester is the certificate that proved who asks; the reservation checks
// that it is not revoked (S19). The zero value is the service itself.
type Requester struct {
	Actor     string // access.Actor.String()
	Station   string // checked to be active when not empty
	Authority string
	Serial    Serial
}

// Rekey says what to do when the identity has a live certificate with another key.
type Rekey uint8

// The answers to another key.
const (
	RekeyRefuse          Rekey = iota // conflict
	RekeyBeforeInstalled              // replace it while the unit is not installed (S9); after that it is rework
	RekeySupersede                    // revoke the old one as superseded
)

// Claim is what issuance asks the ledger to reserve.
type Claim struct {
	Identity
	Account string   // the order, or "" for what no quota counts
	Quota   int64    // most identities of the account, from the signed order; 0 only with an empty account
	SPKI    [32]byte // SHA-256 of the subjectPublicKeyInfo
	Rekey   Rekey
	// MaxRekeys bounds how often an identity may change its key.
	MaxRekeys int
	// Instead names a reservation of this identity and key that has no certificate
	// and whose authority cannot sign it: it becomes void, and this claim takes its
	// place.
	Instead Serial

	Authority string
	Version   int // of the profile
	Serial    Serial
	TBS       []byte // linted
	Shard     int    // of the CRL that would list it
	NotBefore time.Time
	NotAfter  time.Time

	Requester Requester
	Operator  string // "asserted:NAME", "proven:NAME" or ""
	Tool      string // name and version of the software that asked
	Origin    string // where the key comes from (S5)
	Now       time.Time
}

// Reservation is a serial number whose TBS is on disk.
type Reservation struct {
	ID        int64
	Authority string
	Profile   string
	Serial    Serial
	TBS       []byte
	Resumed   bool // it was made by an earlier call
	// Whose it is, as far as the ledger told; Record may take it from here.
	Tenant, Account, Holder string
}

// Issued is a certificate that is durable and in the log.
type Issued struct {
	ID        int64 // of the reservation
	Authority string
	Serial    Serial
	DER       []byte
	Leaf      int64 // index in the transparency log
	IssuedAt  time.Time
	Replayed  bool // it was issued by an earlier call
}
