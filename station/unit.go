package station

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/ca/csr"
	"hallmark/internal/fault"
	"hallmark/station/adapter"
	"hallmark/station/spool"
	"hallmark/station/uplink"
)

const (
	keyTries    = 5
	keyPause    = 100 * time.Millisecond
	keyPauseMax = 2 * time.Second
)

// nest is one place of the fixture with the adapter that reaches it.
type nest struct {
	*Station
	number  int
	adapter adapter.Adapter
}

// work is one unit in one nest.
type work struct {
	unit    spool.Unit // what the journal knows; State "" if nothing
	device  adapter.Device
	begin   time.Time
	resumed bool
	left    bool // an earlier run left it; nobody scanned it in this one
	again   bool // it was committed before and was only looked at
	refused bool // it was never begun, so the journal says nothing of it
	entered string
	answer  factoryapi.CommitAnswer
}

// carry takes a unit from where the journal says it stands to its end. The
// order of the steps is the promise of this package: a record stands before
// each request, so that whoever comes after a crash knows what may have
// happened, and every request can be repeated.
func (n *nest) carry(ctx context.Context, w *work) error {
	if w.unit.State == spool.Committed {
		return n.lookAgain(ctx, w)
	}
	if w.unit.State != spool.Verified {
		// 1. The unit. A failed one begins again; what was begun goes on.
		if w.unit.State == "" || w.unit.State == spool.Failed {
			if err := n.note(w, spool.Record{State: spool.Planned, Order: n.cfg.Order, Unit: w.device.Unit, Operator: n.cfg.Operator}); err != nil {
				return err
			}
		}
		// 2. The device.
		if err := n.step(ctx, func(ctx context.Context) error { return n.adapter.Connect(ctx, w.device) }); err != nil {
			return err
		}
		// 3. and 4. Its key and CSR, on disk before it is sent.
		if err := n.requested(ctx, w); err != nil {
			return err
		}
		// 5. to 7. The certificate. After a crash it is asked for again even
		// if it is here: the answer is the same, and tells whether it is still
		// good.
		if err := n.issued(ctx, w); err != nil {
			return err
		}
		// 8. to 10. On the device, and proven to be there.
		if err := n.written(ctx, w); err != nil {
			return err
		}
		if err := n.verified(ctx, w); err != nil {
			return err
		}
	}
	// 11. The commit; a proof that is on disk needs no device any more.
	if err := n.commit(ctx, w); err != nil {
		return err
	}
	// 12. If this record is lost the commit is repeated, which is harmless.
	return n.note(w, spool.Record{State: spool.Committed})
}

// commit tells the service, or tells it again, which costs nothing.
func (n *nest) commit(ctx context.Context, w *work) (err error) {
	w.answer, err = n.cfg.Uplink.Commit(ctx, factoryapi.CommitRequest{Order: w.unit.Order, Unit: w.unit.Unit, Serial: w.unit.Serial, Signature: w.unit.Signature})
	return err
}

// note writes a record of the unit and tells about it.
func (n *nest) note(w *work, r spool.Record) error {
	r.Job, r.Nest = w.unit.Job, n.number
	if err := n.cfg.Journal.Append(r); err != nil {
		return err
	}
	w.unit, _ = n.cfg.Journal.Unit(r.Job)
	if !r.State.Final() {
		n.tell(n.event(w, string(r.State)))
	}
	return nil
}

// step bounds what a device may take.
func (n *nest) step(ctx context.Context, do func(ctx context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, n.cfg.StepTimeout)
	defer cancel()
	err := do(limited)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return adapter.ErrSlow.Wrap(err, "It had %s.", n.cfg.StepTimeout)
	}
	return err
}

// Refusals after which only another key can help.
var needsFreshKey = map[string]bool{"identity-revoked": true, "key-in-use": true, "key-compromised": true}

// requested gets the CSR. A key that could not be made is tried again with
// growing, jittered pauses: nests of a panel share a bus.
func (n *nest) requested(ctx context.Context, w *work) error {
	if w.unit.State != spool.Planned {
		return nil // the CSR in the journal names the key that was asked for
	}
	fresh := needsFreshKey[w.unit.Code]
	var request []byte
	for try, wait := 1, keyPause; ; try, wait = try+1, min(2*wait, keyPauseMax) {
		err := n.step(ctx, func(ctx context.Context) (err error) {
			request, err = n.adapter.KeyAndCSR(ctx, w.device, fresh)
			return err
		})
		if err == nil {
			break
		}
		if !errors.Is(err, adapter.ErrKeyFault) || try == keyTries {
			return err
		}
		n.log.InfoContext(ctx, "key generation is repeated", "unit", w.device.Unit, "nest", n.number, "try", try, "error", err)
		if err := n.cfg.pause(ctx, uplink.Jitter(wait)); err != nil {
			return err
		}
	}
	parsed, err := csr.Parse(request)
	if err != nil {
		return ErrCSR.Wrap(err, "%s", fault.From(err).What)
	}
	return n.note(w, spool.Record{State: spool.Requested, CSR: parsed.Raw})
}

// issued asks for the certificate and checks it before it goes anywhere.
func (n *nest) issued(ctx context.Context, w *work) error {
	request := factoryapi.IssueRequest{Order: w.unit.Order, Csr: w.unit.CSR, Tool: &n.cfg.Tool}
	if w.unit.Unit != "" {
		request.Unit = &w.unit.Unit
	}
	if w.unit.Operator != "" {
		request.Operator = &w.unit.Operator
	}
	sent := n.cfg.Now()
	a, err := n.cfg.Uplink.Issue(ctx, request)
	if err != nil {
		return err
	}
	n.measure(n.cfg.Now().Sub(sent))
	if w.unit.Unit == "" && validUnit(a.Unit) { // from here on it is shown by its name
		w.unit.Unit, w.unit.Serial = a.Unit, a.Serial
	}
	if err := n.checkCertificate(a, w.unit.CSR); err != nil {
		return err
	}
	w.device.Unit = a.Unit
	fingerprint := sha256.Sum256(a.Certificate)
	if w.unit.State != spool.Requested && bytes.Equal(w.unit.Fingerprint, fingerprint[:]) && bytes.Equal(w.unit.Nonce, a.Nonce) {
		return nil // it is in the journal
	}
	return n.note(w, spool.Record{State: spool.Issued, Unit: a.Unit, Serial: a.Serial, Certificate: a.Certificate,
		Chain: a.Chain, Nonce: a.Nonce, Fingerprint: fingerprint[:]})
}

// checkCertificate: the unit's name, the CSR's key, a chain to a pinned root.
func (n *nest) checkCertificate(a factoryapi.IssueAnswer, request []byte) error {
	if !validUnit(a.Unit) {
		return ErrCertificate.New("It is for a unit with an impossible name.")
	}
	cert, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return ErrCertificate.Wrap(err, "It cannot be read.")
	}
	asked, err := csr.Parse(request)
	if err != nil {
		return ErrCSR.Wrap(err, "")
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, asked.SPKI) {
		return ErrCertificate.New("It is for another key than the device's.")
	}
	// A PrintableString has no underscore, so serialNumber shows a hyphen there.
	cn, number := cert.Subject.CommonName, cert.Subject.SerialNumber
	printable := strings.ReplaceAll(a.Unit, "_", "-")
	if cn == "" && number == "" || cn != "" && cn != a.Unit || number != "" && number != a.Unit && number != printable {
		return ErrCertificate.New("It names the unit %q, serialNumber %q.", cn, number)
	}
	if cert.SerialNumber.Text(16) != strings.TrimLeft(strings.ToLower(a.Serial), "0") {
		return ErrCertificate.New("Its serial number is not the one of the answer.")
	}
	others := x509.NewCertPool()
	for _, der := range a.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return ErrCertificate.Wrap(err, "A certificate of its chain cannot be read.")
		}
		others.AddCert(c)
	}
	now := n.cfg.Now()
	if _, err := cert.Verify(x509.VerifyOptions{Roots: n.roots, Intermediates: others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		// The service dates a certificate back: one that is not valid yet says
		// something of the clock, which every other unit would pay for.
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore) {
			return ErrClock.Wrap(err, "A certificate is valid from %s; here it is %s.", invalid.Cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		return ErrCertificate.Wrap(err, "Its chain does not end in a root of this station, or the station's clock is wrong.")
	}
	return nil
}

// written gives the certificate to the device. A unit that is resumed may have
// it already, and some elements can be written once; or another board may be in
// the nest by now, which the key tells.
func (n *nest) written(ctx context.Context, w *work) error {
	if w.resumed {
		if held, err := n.readBack(ctx, w); err == nil && bytes.Equal(held, w.unit.Certificate) {
			return n.note(w, spool.Record{State: spool.Written})
		}
		if _, err := n.challenge(ctx, w, w.unit.Certificate, w.unit.Nonce); errors.Is(err, ErrChallenge) {
			return adapter.ErrAbsent.Wrap(err, "The device in the nest has another key; it is not the one that was begun.")
		} else if err != nil {
			return err
		}
	}
	err := n.step(ctx, func(ctx context.Context) error {
		return n.adapter.Install(ctx, w.device, w.unit.Certificate, w.unit.Chain)
	})
	if err != nil {
		return err
	}
	return n.note(w, spool.Record{State: spool.Written})
}

func (n *nest) readBack(ctx context.Context, w *work) (held []byte, err error) {
	err = n.step(ctx, func(ctx context.Context) error {
		held, err = n.adapter.ReadBack(ctx, w.device)
		return err
	})
	return held, err
}

// verified reads the certificate back and lets the device sign the commit
// message. Its signature is on disk before the commit is sent.
func (n *nest) verified(ctx context.Context, w *work) error {
	held, err := n.readBack(ctx, w)
	if err != nil {
		return err
	}
	if !bytes.Equal(held, w.unit.Certificate) {
		return ErrReadBack.New("It returned %d octets, not the %d that were written, or others.", len(held), len(w.unit.Certificate))
	}
	signature, err := n.challenge(ctx, w, held, w.unit.Nonce)
	if err != nil {
		return err
	}
	return n.note(w, spool.Record{State: spool.Verified, Signature: signature})
}

func (n *nest) challenge(ctx context.Context, w *work, der, nonce []byte) (signature []byte, err error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, ErrReadBack.Wrap(err, "")
	}
	message := uplink.CommitMessage(nonce, w.device.Unit, der)
	err = n.step(ctx, func(ctx context.Context) error {
		signature, err = n.adapter.Challenge(ctx, w.device, message)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := uplink.VerifyCommit(cert.PublicKey, message, signature); err != nil {
		return nil, ErrChallenge.Wrap(err, "")
	}
	return signature, nil
}

// lookAgain passes a unit that was committed before only if the device in the
// nest is the one, since a second board with the same label must not pass, and if
// the service still takes its commit: the certificate may be revoked by now.
func (n *nest) lookAgain(ctx context.Context, w *work) error {
	w.again = true
	if err := n.step(ctx, func(ctx context.Context) error { return n.adapter.Connect(ctx, w.device) }); err != nil {
		return err
	}
	held, err := n.readBack(ctx, w)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(held); !bytes.Equal(sum[:], w.unit.Fingerprint) {
		return ErrOther.New("It holds another certificate.")
	}
	nonce := make([]byte, 32) // ours: the answer goes nowhere
	rand.Read(nonce)
	if _, err := n.challenge(ctx, w, held, nonce); err != nil {
		if errors.Is(err, ErrChallenge) {
			return ErrOther.Wrap(err, "It holds another key.")
		}
		return err
	}
	return n.commit(ctx, w)
}
