package crl

import (
	"bytes"
	"math/big"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// The extensions of lists and their entries (RFC 5280, Sections 5.2 and 5.3).
var (
	oidCRLNumber  = der.MustOID("2.5.29.20")
	oidReasonCode = der.MustOID("2.5.29.21")
	oidIDP        = der.MustOID("2.5.29.28")
	oidAKI        = der.MustOID("2.5.29.35")
	oidDelta      = der.MustOID("2.5.29.27") // Section 5.2.4
	oidFreshest   = der.MustOID("2.5.29.46") // Section 5.2.6
)

// Entry is one revoked certificate on a list.
type Entry struct {
	Serial []byte // content octets of the INTEGER, positive
	At     time.Time
	Reason Reason
	Raw    []byte // the entry's DER; points into the list
}

// ours is the serial number as one that we drew.
func (e *Entry) ours() (ca.Serial, bool) {
	return ca.SerialFromInt(new(big.Int).SetBytes(e.Serial))
}

// reasonExtensions holds the whole crlEntryExtensions for each reason.
var reasonExtensions = func() (out [16][]byte) {
	for r := range out {
		if r == int(Unspecified) {
			continue // said by absence (RFC 5280, Section 5.3.1)
		}
		out[r] = der.Sequence(nil, func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = oidReasonCode.Append(b)
				return der.AppendOctetString(b, der.AppendEnumerated(nil, int64(r)))
			})
		})
	}
	return out
}()

// appendEntry appends a revokedCertificates entry (RFC 5280, Section 5.1.2.6).
func appendEntry(b []byte, serial ca.Serial, at time.Time, r Reason) []byte {
	b, mark := der.Begin(b, der.TagSequence)
	b = der.AppendUint(b, serial[:])
	b = der.AppendUTCOrGeneralizedTime(b, at)
	if int(r) < len(reasonExtensions) {
		b = append(b, reasonExtensions[r]...)
	}
	return der.End(b, mark)
}

// edit is an entry to put, or to take away where raw is nil.
type edit struct {
	serial ca.Serial
	raw    []byte
}

// merge applies edits, ordered by serial number, to ordered entries. The result
// is pieces that one after another are the new entries; runs that do not change
// stay where they are, so that a list of a million entries is not copied here.
func merge(entries []byte, edits []edit) ([][]byte, error) {
	var out [][]byte
	run := 0 // start of the current run
	add := func(piece []byte) {
		if len(piece) > 0 {
			out = append(out, piece)
		}
	}
	i := 0
	for pos := 0; pos < len(entries) && i < len(edits); {
		e, rest, err := nextEntry(entries[pos:])
		if err != nil {
			return nil, err
		}
		next := len(entries) - len(rest)
		for i < len(edits) && bytes.Compare(edits[i].serial[:], e.Serial) < 0 {
			add(entries[run:pos])
			add(edits[i].raw)
			run = pos
			i++
		}
		if i < len(edits) && bytes.Equal(edits[i].serial[:], e.Serial) {
			add(entries[run:pos])
			add(edits[i].raw)
			run = next
			i++
		}
		pos = next
	}
	add(entries[run:])
	for ; i < len(edits); i++ {
		add(edits[i].raw)
	}
	return out, nil
}

// header is what a list says besides its entries.
type header struct {
	SigAlg     []byte // DER of the AlgorithmIdentifier
	Issuer     []byte // DER of the Name
	KeyID      []byte
	URL        string // of the issuing distribution point
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Base       int64  // of a delta list: the number of the list that it changes
	Freshest   string // of a full list: where its delta lists are, or ""
}

// frame builds tBSCertList (RFC 5280, Section 5.1.2) around entries of n octets:
// what stands before and after them.
func (h *header) frame(n int) (front, back []byte) {
	back = der.Wrap(nil, der.ContextConstructed(0), func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = appendExtension(b, oidAKI, false, der.Sequence(nil, func(b []byte) []byte {
				return der.AppendTLV(b, der.Context(0), h.KeyID)
			}))
			b = appendExtension(b, oidCRLNumber, false, der.AppendInt(nil, h.Number))
			b = appendExtension(b, oidIDP, true, issuingPoint(h.URL))
			if h.Base > 0 {
				b = appendExtension(b, oidDelta, true, der.AppendInt(nil, h.Base))
			}
			if h.Freshest != "" {
				b = appendExtension(b, oidFreshest, false, freshestPoint(h.Freshest))
			}
			return b
		})
	})
	var fields []byte
	fields = der.AppendInt(fields, 1) // v2
	fields = append(fields, h.SigAlg...)
	fields = append(fields, h.Issuer...)
	fields = der.AppendUTCOrGeneralizedTime(fields, h.ThisUpdate)
	fields = der.AppendUTCOrGeneralizedTime(fields, h.NextUpdate)
	if n > 0 { // an empty list has no field: RFC 5280, Section 5.1.2.6
		fields = der.AppendHeader(fields, der.TagSequence, n)
	}
	front = der.AppendHeader(nil, der.TagSequence, len(fields)+n+len(back))
	return append(front, fields...), back
}

// envelope turns the two ends of a tBSCertList into those of the whole list.
func envelope(front, back, sigAlg, sig []byte, n int) (head, tail []byte) {
	tail = append(append([]byte(nil), back...), sigAlg...)
	tail = der.AppendBitString(tail, sig)
	head = der.AppendHeader(nil, der.TagSequence, len(front)+n+len(tail))
	return append(head, front...), tail
}

// issuingPoint is the issuingDistributionPoint (RFC 5280, Section 5.2.5), whose
// name is octet for octet that of the certificates' distribution point.
func issuingPoint(url string) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return profile.AppendDistributionPointName(b, url) })
}

func appendExtension(b []byte, oid der.OID, critical bool, value []byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = oid.Append(b)
		if critical {
			b = der.AppendBool(b, true)
		}
		return der.AppendOctetString(b, value)
	})
}
