package tlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree; in JSON it is base64.
type Hash = merkle.Hash

// Event is what a leaf says happened. The names are part of the hashed form.
type Event string

// The events.
const (
	Issue   Event = "issue"   // a certificate was recorded
	Revoke  Event = "revoke"  // it is on a CRL for good
	Hold    Event = "hold"    // it is on a CRL until further notice
	Release Event = "release" // it may leave the CRL again
	Void    Event = "void"    // a reserved serial number was given up
	Block   Event = "block"   // an identity gets no certificate any more
)

// Valid says whether e is one of the events.
func (e Event) Valid() bool {
	switch e {
	case Issue, Revoke, Hold, Release, Void, Block:
		return true
	}
	return false
}

// Leaf is one event, with everything needed to make its entry again.
type Leaf struct {
	Index   int64 // in the log, from 0; given by the ledger, not part of the entry
	Type    Event
	Tenant  string
	Account string   // the order, or whatever the quota belongs to
	Holder  string   // the unit or other subject of the certificate
	Subject [32]byte // SHA-256 of the certificate's DER; of the serial number's 20 octets for revoke, hold, release and void
	Salt    [16]byte
	Entry   [32]byte
	At      int64 // Unix seconds; a note for people, not part of the entry
}

// NewLeaf makes a leaf with a fresh salt. The ledger sets its Index.
func NewLeaf(event Event, tenant, account, holder string, subject [32]byte, at time.Time) Leaf {
	l := Leaf{Type: event, Tenant: tenant, Account: account, Holder: holder, Subject: subject, At: at.Unix()}
	rand.Read(l.Salt[:])
	l.Entry = l.Compute()
	return l
}

// entryDomain keeps these hashes apart from any other use of SHA-256 and names
// the form, should it ever change.
const entryDomain = "hallmark log entry v1"

// Compute gives the entry of the leaf's facts:
//
//	SHA-256(salt || s(domain) || s(type) || s(tenant) || s(account) || s(holder) || subject)
//
// where s(x) is the length of x as 4 octets, most significant first, and x.
func (l *Leaf) Compute() [32]byte {
	b := make([]byte, 0, 256)
	b = append(b, l.Salt[:]...)
	for _, s := range []string{entryDomain, string(l.Type), l.Tenant, l.Account, l.Holder} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return sha256.Sum256(append(b, l.Subject[:]...))
}

// Check says whether the leaf's entry is that of its facts; fsck asks for every row.
func (l *Leaf) Check() error {
	if !l.Type.Valid() {
		return ErrLeaf.New("Leaf %d has the unknown type %q.", l.Index, l.Type)
	}
	if l.Compute() != l.Entry {
		return ErrLeaf.New("Leaf %d.", l.Index)
	}
	return nil
}

// MerkleLeaf is the hash that the tree holds for an entry.
func MerkleLeaf(entry [32]byte) Hash { return merkle.RecordHash(entry[:]) }

// leafJSON is the leaf in receipts; octets are base64.
type leafJSON struct {
	Index   int64  `json:"index"`
	Type    Event  `json:"type"`
	Tenant  string `json:"tenant"`
	Account string `json:"account"`
	Holder  string `json:"holder"`
	Subject []byte `json:"subject"`
	Salt    []byte `json:"salt"`
	Entry   []byte `json:"entry"`
	At      int64  `json:"at"`
}

// MarshalJSON writes octets as base64.
func (l Leaf) MarshalJSON() ([]byte, error) {
	return json.Marshal(leafJSON{l.Index, l.Type, l.Tenant, l.Account, l.Holder, l.Subject[:], l.Salt[:], l.Entry[:], l.At})
}

// UnmarshalJSON insists on the sizes.
func (l *Leaf) UnmarshalJSON(data []byte) error {
	var j leafJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	if len(j.Subject) != len(l.Subject) || len(j.Salt) != len(l.Salt) || len(j.Entry) != len(l.Entry) {
		return ErrReceipt.New("A hash or salt has the wrong size.")
	}
	*l = Leaf{Index: j.Index, Type: j.Type, Tenant: j.Tenant, Account: j.Account, Holder: j.Holder, At: j.At}
	copy(l.Subject[:], j.Subject)
	copy(l.Salt[:], j.Salt)
	copy(l.Entry[:], j.Entry)
	return nil
}
