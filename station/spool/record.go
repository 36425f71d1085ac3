package spool

import (
	"time"
)

// State is how far a unit has come.
type State string

// The states, in their order. Committed and failed are the end.
const (
	Planned   State = "planned"   // the unit was named or is to be allocated; nothing was asked
	Requested State = "requested" // its CSR is here; the request may have left
	Issued    State = "issued"    // the certificate is here
	Written   State = "written"   // the certificate was given to the device
	Verified  State = "verified"  // read back, checked, signed by the device; the commit may have left
	Committed State = "committed" // the service said so
	Failed    State = "failed"    // given up, with the reason
)

// Final tells whether nothing is left to do.
func (s State) Final() bool { return s == Committed || s == Failed }

func (s State) known() bool {
	switch s {
	case Planned, Requested, Issued, Written, Verified, Committed, Failed:
		return true
	}
	return false
}

// Record is one line of the journal. Of the facts only the new ones are set;
// [Unit] joins them.
type Record struct {
	Seq  uint64    `json:"seq"`  // set by Append
	Prev []byte    `json:"prev"` // set by Append: SHA-256 of the payload before
	At   time.Time `json:"at"`   // set by Append; never before the record before

	// Job names the work from planned to its end. A named unit's job is always
	// the same; a unit that the service allocates has a random one, because its
	// name is not known when its key is made.
	Job   string `json:"job"`
	State State  `json:"state"`

	Order       string   `json:"order,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Nest        int      `json:"nest,omitempty"` // where it is worked on; a unit is resumed in its own nest
	Operator    string   `json:"operator,omitempty"`
	CSR         []byte   `json:"csr,omitempty"`
	Serial      string   `json:"serial,omitempty"` // of the certificate, hexadecimal
	Certificate []byte   `json:"certificate,omitempty"`
	Chain       [][]byte `json:"chain,omitempty"`
	Nonce       []byte   `json:"nonce,omitempty"`
	Signature   []byte   `json:"signature,omitempty"` // by the device, over the commit message
	Fingerprint []byte   `json:"fingerprint,omitempty"`
	Code        string   `json:"code,omitempty"`   // why it failed
	Detail      string   `json:"detail,omitempty"` // for people
}

// Unit is what all records of one job say together.
type Unit struct {
	Record
	Began time.Time // of its latest planned record
}

// join adds a record's facts. A planned record begins the work again, so what
// an earlier attempt left does not mix with it; only the failure's code stays,
// because it decides whether a new key is needed.
func (u Unit) join(r *Record) Unit {
	if r.State == Planned {
		return Unit{Record: Record{Seq: r.Seq, At: r.At, Job: r.Job, State: r.State, Order: r.Order, Unit: r.Unit, Nest: r.Nest, Operator: r.Operator, Code: u.Code}, Began: r.At}
	}
	u.Seq, u.At, u.Job, u.State = r.Seq, r.At, r.Job, r.State
	u.Nest, u.Code, u.Detail = r.Nest, r.Code, r.Detail
	set := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	octets := func(to *[]byte, from []byte) {
		if len(from) > 0 {
			*to = from
		}
	}
	set(&u.Order, r.Order)
	set(&u.Unit, r.Unit)
	set(&u.Operator, r.Operator)
	set(&u.Serial, r.Serial)
	octets(&u.CSR, r.CSR)
	octets(&u.Certificate, r.Certificate)
	octets(&u.Nonce, r.Nonce)
	octets(&u.Signature, r.Signature)
	octets(&u.Fingerprint, r.Fingerprint)
	if len(r.Chain) > 0 {
		u.Chain = r.Chain
	}
	if r.State.Final() {
		// A station makes a hundred thousand units between restarts: what is
		// finished keeps in memory what names it, and the device's signature,
		// with which its commit can be repeated.
		u.CSR, u.Certificate, u.Chain, u.Nonce = nil, nil, nil, nil
		if r.State == Failed {
			u.Signature = nil
		}
	}
	return u
}
