package crl

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
)

// InstallRootList publishes a list that a root signed offline, DER or PEM. It
// must verify, advance number and time, be current, and keep what the list
// before it revoked. Authorities on it are distrusted at once.
func (p *Publisher) InstallRootList(ctx context.Context, authority string, in []byte) (ListHead, error) {
	a, err := p.cfg.CA.Authority(authority)
	if err != nil {
		return ListHead{}, err
	}
	l, err := p.checkRoot(a, in)
	if err != nil {
		return ListHead{}, err
	}
	id := listID{authority, 0}
	lock := &p.build[hash(id)%len(p.build)]
	lock.Lock()
	defer lock.Unlock()
	if err := p.loadRoot(ctx, a); err != nil {
		return ListHead{}, err
	}
	last := p.current(id)
	old, err := p.storedNumber(ctx, id)
	if err != nil {
		return ListHead{}, err
	}
	if last != nil {
		if last.Number == l.Number && bytes.Equal(last.der(), l.DER) {
			return ListHead{authority, 0, l.Number, l.ThisUpdate, l.NextUpdate, last.leaf}, nil
		}
		if l.Number <= last.Number || l.ThisUpdate.Before(last.ThisUpdate) {
			return ListHead{}, ErrListOld.New("It has number %d of %s; published is %d of %s.", l.Number, l.ThisUpdate.Format(timeForm), last.Number, last.ThisUpdate.Format(timeForm))
		}
		if err := p.rootDrops(last, l); err != nil {
			return ListHead{}, err
		}
	}
	leaf, err := p.cfg.Store.Head(ctx)
	if err != nil {
		return ListHead{}, err
	}
	head := ListHead{authority, 0, l.Number, l.ThisUpdate, l.NextUpdate, leaf}
	if err := p.cfg.Store.PutList(lane.With(ctx, lane.Status), StoredList{ListHead: head, DER: l.DER}, old); err != nil {
		return ListHead{}, err
	}
	p.Stats.Built.Add(1)
	p.log.InfoContext(ctx, "root list installed", "authority", authority, "number", l.Number, "entries", l.Count)
	n, err := publishedOf(l, nil, leaf)
	if err != nil {
		return ListHead{}, err
	}
	if err := p.serve(id, n); err != nil {
		return ListHead{}, err
	}
	return head, p.distrust(l)
}

// CheckRootList tells whether a list fits a root that is about to be stored. The
// root need not be loaded yet.
func (p *Publisher) CheckRootList(root *ca.Authority, cert *x509.Certificate, in []byte) error {
	_, err := p.checkRoot(ca.Info{Authority: *root, Cert: cert}, in)
	return err
}

// checkRoot holds a root's list, DER or PEM, to all that needs no other list.
func (p *Publisher) checkRoot(a ca.Info, in []byte) (*List, error) {
	if a.Duty != profile.DutyRoot {
		return nil, ErrListUntrusted.New("%s signs its lists itself; only a root's list is uploaded.", a.Name)
	}
	if block, rest := pem.Decode(in); block != nil {
		if block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, malformed(nil, "The PEM text is not one X509 CRL.")
		}
		in = block.Bytes
	}
	l, err := rootList(in, a)
	if err != nil {
		return nil, err
	}
	now := p.now()
	if l.ThisUpdate.After(now.Add(skew)) || !l.NextUpdate.After(now) {
		return nil, ErrListOld.New("It runs from %s to %s.", l.ThisUpdate.Format(timeForm), l.NextUpdate.Format(timeForm))
	}
	return l, p.cfg.CA.LintList(in)
}

// rootList parses a root's list; an issuing distribution point is optional
// there, but if there is one it must be ours.
func rootList(in []byte, a ca.Info) (*List, error) {
	l, err := ParseList(in)
	if err != nil {
		return nil, err
	}
	if err := l.Verify(a.Cert); err != nil {
		return nil, err
	}
	if l.Base != 0 {
		return nil, malformed(nil, "It is a delta list.")
	}
	if want := listURL(a.ListBase(), 0); l.URL != "" && l.URL != want {
		if base, ok := strings.CutSuffix(l.URL, strings.TrimPrefix(want, a.BaseURL)); ok {
			return nil, ErrListUntrusted.New("It was made for the base URL %s, not for %s. Store the root with that one (--base-url).", base, a.BaseURL)
		}
		return nil, ErrListUntrusted.New("It was made for %s, not for %s: name or base URL of the root are others.", l.URL, want)
	}
	return l, nil
}

// rootDrops refuses a list that forgets a revoked CA that has not expired.
func (p *Publisher) rootDrops(last *published, next *List) error {
	have := map[string]bool{}
	if err := next.Each(func(e Entry) error { have[string(e.Serial)] = true; return nil }); err != nil {
		return err
	}
	return last.entries.each(func(e Entry) error {
		if have[string(e.Serial)] || e.Reason == CertificateHold {
			return nil
		}
		for _, a := range p.cfg.CA.Authorities() {
			if bytes.Equal(a.Cert.SerialNumber.Bytes(), bytes.TrimLeft(e.Serial, "\x00")) && a.Cert.NotAfter.Before(last.ThisUpdate) {
				return nil
			}
		}
		return ErrListDrops.New("Serial number %x.", e.Serial)
	})
}

// loadRoot reads a root's stored list. One that does not verify is not served.
func (p *Publisher) loadRoot(ctx context.Context, a ca.Info) error {
	id := listID{a.Name, 0}
	known := int64(-1)
	if have := p.current(id); have != nil {
		known = have.Number
	}
	row, err := p.cfg.Store.List(ctx, a.Name, 0, known)
	if err != nil {
		return stored(err)
	}
	if row == nil || row.Number <= known {
		return nil
	}
	l, err := rootList(row.DER, a)
	if err != nil || l.Number != row.Number {
		p.Stats.Rollback.Add(1)
		p.log.ErrorContext(ctx, "stored root list is not what was signed", "authority", a.Name, "error", err)
		return nil
	}
	n, err := publishedOf(l, nil, row.Leaf)
	if err != nil {
		return err
	}
	return errors.Join(p.serve(id, n), p.distrust(l))
}

func (p *Publisher) storedNumber(ctx context.Context, id listID) (int64, error) {
	row, err := p.cfg.Store.List(ctx, id.authority, id.shard, 1<<62)
	if err != nil || row == nil {
		return 0, stored(err)
	}
	return row.Number, nil
}

// distrust makes the set refuse everything of a CA that its root revoked.
func (p *Publisher) distrust(l *List) error {
	all := p.cfg.CA.Authorities()
	return l.Each(func(e Entry) error {
		for _, a := range all {
			if a.Duty != profile.DutyRoot && bytes.Equal(a.Cert.RawIssuer, l.Issuer) && bytes.Equal(a.Cert.SerialNumber.Bytes(), bytes.TrimLeft(e.Serial, "\x00")) {
				p.cfg.Set.kill(a.Name, e.Reason, e.At)
				p.log.Warn("authority is revoked by its root", "authority", a.Name, "reason", e.Reason.String())
			}
		}
		return nil
	})
}

// OnRootList tells whether the list of its root has an authority.
func (p *Publisher) OnRootList(a ca.Info) (found bool, err error) {
	for _, root := range p.cfg.CA.Authorities() {
		l := p.current(listID{root.Name, 0})
		if root.Duty != profile.DutyRoot || l == nil || !bytes.Equal(root.Cert.RawSubject, a.Cert.RawIssuer) {
			continue
		}
		if err := l.entries.each(func(e Entry) error {
			found = found || bytes.Equal(a.Cert.SerialNumber.Bytes(), bytes.TrimLeft(e.Serial, "\x00"))
			return nil
		}); err != nil {
			return false, err
		}
	}
	return found, nil
}
