package main

import (
	"context"
	"crypto/x509"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/broker"
	"hallmark/ca"
	"hallmark/crl"
)

// stillConnected compares open connections with the revoked set, on a timer and
// not by the news that normally ends them: where that news got lost, the number is
// not 0, and the connection ends all the same. Connections of devices that another
// CA's list revokes are ended by nothing else.
type stillConnected struct {
	connected func(func(id *broker.Identity, client string))
	revoked   func(authority string, serial ca.Serial) (crl.Reason, time.Time, bool)
	imported  func(c *x509.Certificate) (crl.Reason, bool, error)
	drop      func(ctx context.Context, sel broker.Selection, cause broker.Cause, noWill bool) (int, error)

	now   atomic.Int64                   // revoked or held, and connected
	found map[broker.Selection]time.Time // since when
}

// revokedPatience is how long a revoked device may still be there before this
// ends its connection: the news takes less.
const revokedPatience = 2 * time.Second

// standing tells whether a connection's certificate is revoked or on hold, by what
// name the broker drops it, and how long to wait for somebody else to do that.
func (w *stillConnected) standing(id *broker.Identity) (sel broker.Selection, reason crl.Reason, patience time.Duration, revoked bool) {
	if id.Foreign != nil {
		// Without the list that a CA has to have the door lets nobody in; who is in
		// already stays.
		reason, revoked, _ = w.imported(id.Foreign)
		return broker.Selection{Tenant: id.Tenant, Certificate: id.Certificate}, reason, 0, revoked
	}
	serial, err := ca.ParseSerial(id.Serial)
	if id.Authority == "" || err != nil {
		return sel, 0, 0, false // the registry's status ends it
	}
	reason, _, revoked = w.revoked(id.Authority, serial)
	return broker.Selection{Authority: id.Authority, Serial: id.Serial}, reason, revokedPatience, revoked
}

// look compares once and gives the devices that it took off.
func (w *stillConnected) look(ctx context.Context, at time.Time) (late []broker.Selection) {
	seen := map[broker.Selection]time.Time{}
	var causes []broker.Cause
	var n int64
	w.connected(func(id *broker.Identity, _ string) {
		sel, reason, patience, revoked := w.standing(id)
		if !revoked {
			return
		}
		n++
		since, known := w.found[sel]
		if !known {
			since = at
		}
		seen[sel] = since
		if at.Sub(since) < patience {
			return
		}
		cause := broker.Withdrawn
		if reason == crl.CertificateHold {
			cause = broker.Asked
		}
		late, causes = append(late, sel), append(causes, cause)
	})
	w.found = seen
	w.now.Store(n)
	for i, sel := range late {
		_, _ = w.drop(ctx, sel, causes[i], true) // whatever its outcome, the next look counts again
	}
	return late
}

// importNews is what lists of other CAs said and nobody has acted on yet.
type importNews struct {
	mu   sync.Mutex
	gone map[theirs]bool
	wake chan struct{}
}

// theirs names a certificate of another CA as its list does.
type theirs struct{ issuer, serial string }

func newImportNews() *importNews {
	return &importNews{gone: map[theirs]bool{}, wake: make(chan struct{}, 1)}
}

// note hears of every new entry of an imported list. It must not wait.
func (n *importNews) note(issuer *x509.Certificate, serial *big.Int, r crl.Reason) {
	n.mu.Lock()
	if r != crl.CertificateHold { // who comes back finds what waits for it
		n.gone[theirs{string(issuer.RawSubject), string(serial.Bytes())}] = true
	}
	n.mu.Unlock()
	n.rouse()
}

func (n *importNews) rouse() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *importNews) take() map[theirs]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.gone
	n.gone = map[theirs]bool{}
	return out
}

// again takes back what could not be acted on.
func (n *importNews) again(gone map[theirs]bool) {
	n.mu.Lock()
	for k := range gone {
		n.gone[k] = true
	}
	n.mu.Unlock()
	n.rouse()
}

// watchRevoked looks once a second, and at once when a list of another CA came,
// until ctx ends.
func (s *Server) watchRevoked(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.news.wake:
		}
		for _, sel := range s.still.look(ctx, time.Now()) {
			if sel.Certificate != "" {
				s.log.InfoContext(ctx, "a device was taken off since its CA revoked it", "tenant", sel.Tenant, "certificate", sel.Certificate)
				continue
			}
			s.log.ErrorContext(ctx, "a revoked device was still connected and was taken off", "authority", sel.Authority, "serial", sel.Serial)
		}
		gone := s.news.take()
		if len(gone) == 0 {
			continue
		}
		if err := s.purgeImported(ctx, gone); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what devices of another CA left behind was not purged", "error", err)
			time.AfterFunc(time.Second, func() { s.news.again(gone) })
		}
	}
}

// purgeImported ends what revoked devices of other CAs left while they were away:
// queues, wills and retained messages (S25). A service that dies before it has
// done so leaves them to their own end; the door refuses the devices.
func (s *Server) purgeImported(ctx context.Context, gone map[theirs]bool) error {
	return s.db.EachForeignCertificate(ctx, func(tenant, id string, der []byte) error {
		c, err := x509.ParseCertificate(der)
		if err != nil || !gone[theirs{string(c.RawIssuer), string(c.SerialNumber.Bytes())}] {
			return nil
		}
		if _, revoked, _ := s.imports.Check(c); !revoked { // of another CA of that name
			return nil
		}
		_, err = s.fleet.broker.Drop(ctx, broker.Selection{Tenant: tenant, Certificate: id}, broker.Withdrawn, true)
		return err
	})
}
