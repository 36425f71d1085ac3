package ca

import (
	"context"
	"time"
)

// Record is the whole story of one serial number.
type Record struct {
	Identity
	ID         int64
	Authority  string
	Serial     Serial
	Shown      string // the holder as first written
	Account    string
	SPKI       [32]byte
	TBS        []byte
	DER        []byte // nil: reserved, not signed on record
	Shard      int
	NotBefore  time.Time
	NotAfter   time.Time
	Requester  string
	Operator   string
	Tool       string
	Origin     string
	ReservedAt time.Time
	IssuedAt   time.Time
	Leaf       int64  // -1 without a certificate
	State      string // of the identity while this is its current reservation: reserved, installed; "" after it was replaced
	// Revocation, if RevokedAt is not zero.
	Reason     int
	RevokedAt  time.Time
	RevokedBy  string
	Note       string
	ReleasedAt time.Time
}

// Revoked tells whether the serial number is revoked or on hold now.
func (r *Record) Revoked() bool { return !r.RevokedAt.IsZero() && r.ReleasedAt.IsZero() }

// Status is one word for people: reserved, good, expired, revoked, void.
func (r *Record) Status(now time.Time) string {
	switch {
	case r.Revoked() && r.DER == nil:
		return "void"
	case r.Revoked():
		return "revoked"
	case r.DER == nil:
		return "reserved"
	case !now.Before(r.NotAfter):
		return "expired"
	}
	return "good"
}

// RecordQuery selects records of one tenant. Empty fields do not filter.
type RecordQuery struct {
	Tenant    string
	Holder    string // exact, compared without case
	Prefix    string // of the holder
	Account   string
	Profile   string
	Authority string
	After     int64 // id of the last record of the page before
	Limit     int   // at most 1000; 0 means 100
}

// Records looks stories up. Contract: RecordBySerial returns a NotFound fault
// for a serial number that was never reserved under the authority; an empty
// authority searches all.
type Records interface {
	RecordBySerial(ctx context.Context, tenant, authority string, serial Serial) (Record, error)
	Records(ctx context.Context, q RecordQuery) ([]Record, error)
}

// PickSlot chooses the slot of a renewal among the profile's slots: a free one,
// else the one whose certificate is revoked or expired, else the older one,
// which the new certificate then supersedes. held are the identity's records.
func PickSlot(slots []string, held []Record, now time.Time) (slot string, supersedes bool) {
	best := -1
	for _, s := range slots {
		used := false
		for i := range held {
			if held[i].Slot != s || held[i].State == "" {
				continue
			}
			used = true
			if st := held[i].Status(now); st == "revoked" || st == "void" || st == "expired" {
				return s, false
			}
			if best < 0 || held[i].ID < held[best].ID {
				best = i
			}
		}
		if !used {
			return s, false
		}
	}
	return held[best].Slot, true
}

// TwoSlots are the slots of profiles whose certificates may overlap.
var TwoSlots = []string{"A", "B"}
