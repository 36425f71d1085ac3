package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/durable"
)

func (b *backend) authorityView(a *ca.Authority) adminapi.Authority {
	v := adminapi.Authority{Name: a.Name, Duty: string(a.Duty), State: string(a.State), BaseUrl: a.BaseURL, Shards: a.Shards, CreatedAt: a.CreatedAt, IssueUntil: a.IssueUntil}
	if u, err := hsm.ParseURI(a.KeyURI); err == nil {
		v.KeyUri = u.Key()
	}
	v.Exposed = a.State != ca.StatePending && b.exposed.is(context.Background(), a.KeyURI)
	if a.State == ca.StatePending {
		if req, _, err := ceremony.CSRIn(a.CSR); err == nil {
			v.Csr = pemText("CERTIFICATE REQUEST", req.Raw)
		}
		return v
	}
	v.Certificate, v.Fingerprint = pemText("CERTIFICATE", a.Certificate), fingerprint(a.Certificate)
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return v
	}
	v.Subject, v.NotBefore, v.NotAfter = c.Subject.String(), c.NotBefore, c.NotAfter
	if s, ok := ca.SerialFromInt(c.SerialNumber); ok {
		v.Serial = s.String()
	}
	for _, root := range b.ca.Authorities() {
		if root.Tenant == a.Tenant && root.Duty == profile.DutyRoot && bytes.Equal(root.Cert.RawSubject, c.RawIssuer) && bytes.Equal(root.Cert.SubjectKeyId, c.AuthorityKeyId) {
			v.Issuer = root.Name
		}
	}
	return v
}

// authorities are those of a tenant, pending ones too.
func (b *backend) authorities(ctx context.Context, s access.Scope) (out []ca.Authority, err error) {
	all, err := b.db.Authorities(ctx)
	for _, a := range all {
		if a.Tenant == s.Tenant {
			out = append(out, a)
		}
	}
	return out, err
}

func (b *backend) authority(ctx context.Context, s access.Scope, name string) (ca.Authority, error) {
	all, err := b.authorities(ctx, s)
	if err != nil {
		return ca.Authority{}, err
	}
	for _, a := range all {
		if a.Name == name {
			return a, nil
		}
	}
	return ca.Authority{}, ca.ErrAuthorityUnknown.New("%.40s.", name)
}

// Authorities implements [web.Authorities].
func (b *backend) Authorities(ctx context.Context, s access.Scope) ([]adminapi.Authority, error) {
	rows, err := b.authorities(ctx, s)
	return mapped(rows, b.authorityView), err
}

// Authority implements [web.Authorities].
func (b *backend) Authority(ctx context.Context, s access.Scope, name string) (adminapi.Authority, error) {
	a, err := b.authority(ctx, s, name)
	if err != nil {
		return adminapi.Authority{}, err
	}
	return b.withTranscript(&a), nil
}

// withTranscript is an authority with the file to bring to its root, which a list
// of many does not have.
func (b *backend) withTranscript(a *ca.Authority) adminapi.Authority {
	v := b.authorityView(a)
	if a.State != ca.StatePending {
		return v
	}
	if _, t, err := ceremony.CSRIn(a.CSR); err == nil {
		v.Transcript = string(t)
	}
	return v
}

// CreateAuthority implements [web.Authorities]. Everything that can be refused
// without the key is refused before a key is made.
func (b *backend) CreateAuthority(ctx context.Context, by access.Actor, r adminapi.AuthorityRequest) (adminapi.Authority, error) {
	a := ca.Authority{
		Name: r.Name, Tenant: by.Tenant, Duty: profile.Duty(r.Duty), State: ca.StatePending, BaseURL: r.BaseUrl, Shards: r.Shards, IssueUntil: r.IssueUntil, CreatedAt: b.now(),
	}
	if a.BaseURL == "" {
		a.BaseURL = b.cfg.BaseURL
	}
	if a.Shards == 0 {
		a.Shards = b.cfg.Lists.Shards
	}
	uri, err := b.keyURI(r.KeyUri)
	if err != nil {
		return adminapi.Authority{}, err
	}
	b.change.Lock()
	defer b.change.Unlock()
	all, err := b.check(ctx, &a)
	if err != nil {
		return adminapi.Authority{}, err
	}
	if !a.IssueUntil.IsZero() && !a.IssueUntil.After(a.CreatedAt) {
		return adminapi.Authority{}, ca.ErrLifetime.New("It would have ended to issue before it began.")
	}
	if r.Certificate != "" {
		return b.importAuthority(ctx, by, a, uri, r, all)
	}
	// 1. The key: one that is there, or a new one.
	_, err = b.keys.Signer(ctx, uri.String())
	generate := errors.Is(err, hsm.ErrKeyNotFound)
	if err != nil && !generate {
		return adminapi.Authority{}, err
	}
	// 2. Its attributes, its CSR, and the transcript to bring to the root.
	c, err := b.ceremony()
	if err != nil {
		return adminapi.Authority{}, err
	}
	made, err := c.MakeCSR(ctx, ceremony.CSRRequest{
		Name: a.Name, Duty: a.Duty, KeyURI: uri.String(), Generate: generate, Algorithm: hsm.Algorithm(r.Algorithm),
		Subject: profile.Subject{CommonName: r.CommonName}, Constraints: profile.Constraints{Permitted: r.Permitted, Excluded: r.Excluded, Purposes: r.Purposes},
	})
	if err != nil {
		return adminapi.Authority{}, err
	}
	for _, e := range made.Transcript.Exceptions {
		b.log.WarnContext(ctx, "key of an authority would be refused in production mode", "authority", a.Name, "exception", e)
	}
	if err := keyIsOnlyOf(all, made.Transcript.Key.SPKI); err != nil {
		return adminapi.Authority{}, err
	}
	// The stored URI names the object by the id that the token gave it.
	if full, err := hsm.ParseURI(made.Transcript.Key.URI); err == nil && len(uri.ID) == 0 {
		uri.ID = full.ID
	}
	a.KeyURI, a.CSR = uri.String(), made.TranscriptJSON
	// 3. The record. Without it the key stays in its token, and the next try finds it.
	if err := b.db.CreateAuthority(ctx, a); err != nil {
		return adminapi.Authority{}, err
	}
	b.log.InfoContext(ctx, "authority created", "authority", a.Name, "duty", string(a.Duty), "key", uri.Key(), "generated", generate, "by", by.String())
	b.keep(ctx, a.Name+".csr", made)
	return b.withTranscript(&a), nil
}

// keyURI refuses what the service must not take from a request.
func (b *backend) keyURI(text string) (hsm.URI, error) {
	u, err := hsm.ParseURI(text)
	switch {
	case err != nil:
		return u, err
	case !u.PINValue.Empty():
		return u, hsm.ErrURIInvalid.New("A PIN does not belong into a request; use pin-source.")
	case b.cfg.Production && u.Scheme == "file" && !b.cfg.exposedAllowed(text):
		return u, hsm.ErrKeyUnsafe.New("Production mode takes no key from a file; use a token.")
	}
	return u, b.cfg.moduleAllowed(u.ModulePath)
}

// check holds a new authority to the rules that need no key, and gives those
// that are there.
func (b *backend) check(ctx context.Context, a *ca.Authority) ([]ca.Authority, error) {
	if err := ca.ValidName(a.Name); err != nil {
		return nil, err
	}
	if err := ca.ValidBaseURL(a.BaseURL, b.cfg.Production); err != nil {
		return nil, err
	}
	all, err := b.db.Authorities(ctx) // of every tenant: names are in URLs, keys are in tokens
	for _, have := range all {
		switch {
		case have.Name != a.Name:
		case have.State == ca.StatePending && have.Tenant == a.Tenant:
			return nil, ca.ErrAuthorityPending.New("%s.", a.Name)
		default:
			return nil, ca.ErrAuthorityExists.New("%s.", a.Name)
		}
	}
	if _, crossed := b.ca.Cross(a.Name); err == nil && crossed == nil { // both are served at /ca/NAME.cer
		return nil, ca.ErrAuthorityExists.New("%s is a cross certificate.", a.Name)
	}
	return all, err
}

// keyIsOnlyOf refuses a key that another authority has: two issuers of one key
// could sign each other's lists (S1).
func keyIsOnlyOf(all []ca.Authority, spki []byte) error {
	for _, a := range all {
		var have []byte
		if c, err := x509.ParseCertificate(a.Certificate); err == nil {
			have = c.RawSubjectPublicKeyInfo
		} else if r, _, err := ceremony.CSRIn(a.CSR); err == nil {
			have = r.SPKI
		}
		if bytes.Equal(have, spki) {
			return errSharedKey.New("It is the key of %s.", a.Name).With("authority", a.Name)
		}
	}
	return nil
}

// keep writes the transcript of a step to where people find it. The step is done
// by then, so a full disk does not undo it.
func (b *backend) keep(ctx context.Context, name string, r *ceremony.Result) {
	file := filepath.Join(b.cfg.State, "ceremony", name+".transcript.json")
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = durable.WriteFile(file, r.TranscriptJSON, 0o600)
	}
	if err != nil {
		b.log.ErrorContext(ctx, "transcript not written", "file", file, "error", err)
		return
	}
	b.log.InfoContext(ctx, "transcript written", "file", file, "words", r.TranscriptWords)
}

// InstallAuthority implements [web.Authorities]. Installing the same certificate
// again repeats what follows the installation, for whoever saw that fail.
func (b *backend) InstallAuthority(ctx context.Context, by access.Actor, name string, r adminapi.InstallRequest) (adminapi.Authority, error) {
	b.change.Lock()
	defer b.change.Unlock()
	a, err := b.authority(ctx, by.Scope(), name)
	if err != nil {
		return adminapi.Authority{}, err
	}
	root, err := b.authority(ctx, by.Scope(), r.Root)
	if err != nil {
		return adminapi.Authority{}, err
	}
	switch {
	case a.Duty == profile.DutyRoot:
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("%s is a root, which is stored with its certificate.", name)
	case root.Duty != profile.DutyRoot || root.State != ca.StateActive:
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("%s is no active root.", r.Root)
	}
	// The proof includes a signature of the token, so that an authority without
	// its key is not installed, and the URLs of the root's list, which are frozen.
	c, err := b.ceremony()
	if err != nil {
		return adminapi.Authority{}, err
	}
	done, err := c.CheckInstall(ctx, ceremony.InstallRequest{Authority: a, Certificate: []byte(r.Certificate), RootCert: root.Certificate, RootName: root.Name, BaseURL: root.BaseURL})
	if err != nil {
		return adminapi.Authority{}, err
	}
	if a.State != ca.StatePending {
		if a.State != ca.StateActive || !bytes.Equal(a.Certificate, done.CertificateDER) {
			return adminapi.Authority{}, ca.ErrAuthorityExists.New("%s is %s with its certificate.", name, a.State)
		}
		return b.authorityView(&a), b.reload(ctx)
	}
	cert, err := x509.ParseCertificate(done.CertificateDER)
	if err != nil {
		return adminapi.Authority{}, err
	}
	if !b.now().Before(cert.NotAfter) {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("The certificate ended at %s.", cert.NotAfter.Format("2006-01-02"))
	}
	a.State, a.Certificate = ca.StateActive, cert.Raw
	if err := b.db.InstallAuthority(ctx, a); err != nil {
		return adminapi.Authority{}, err
	}
	b.log.InfoContext(ctx, "authority installed", "authority", name, "root", root.Name, "fingerprint", fingerprint(cert.Raw), "by", by.String())
	b.keep(ctx, name+".install", done)
	if err := b.reload(ctx); err != nil {
		return adminapi.Authority{}, err
	}
	return b.authorityView(&a), nil
}

// reload makes an installed authority work: it is loaded, and who waits for it
// is told.
func (b *backend) reload(ctx context.Context) error {
	if err := b.ca.Reload(ctx); err != nil || b.reloaded == nil {
		return err
	}
	return b.reloaded(ctx)
}

// CreateRoot implements [web.Authorities].
func (b *backend) CreateRoot(ctx context.Context, by access.Actor, r adminapi.RootRequest) (adminapi.Authority, error) {
	a := ca.Authority{Name: r.Name, Tenant: by.Tenant, Duty: profile.DutyRoot, State: ca.StateActive, BaseURL: r.BaseUrl, Shards: 1, CreatedAt: b.now()}
	if a.BaseURL == "" {
		a.BaseURL = b.cfg.BaseURL
	}
	der, err := ceremony.ReadObject([]byte(r.Certificate), "CERTIFICATE")
	if err != nil {
		return adminapi.Authority{}, err
	}
	b.change.Lock()
	defer b.change.Unlock()
	all, err := b.check(ctx, &a)
	if err != nil {
		return adminapi.Authority{}, err
	}
	cert, err := ca.CheckInstall(&a, nil, der, nil)
	if err != nil {
		return adminapi.Authority{}, err
	}
	// What is stored is loaded at every start, so what could not be is refused here.
	if _, _, err := profile.SignatureAlgorithm(cert.PublicKey); err != nil {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.Wrap(err, "Its key is of no kind that we verify.")
	}
	if !b.now().Before(cert.NotAfter) {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("The certificate ended at %s.", cert.NotAfter.Format("2006-01-02"))
	}
	if err := keyIsOnlyOf(all, cert.RawSubjectPublicKeyInfo); err != nil {
		return adminapi.Authority{}, err
	}
	a.Certificate = cert.Raw
	// A root is trusted as soon as it is stored, and its name and base URL stay, so
	// a list that shows one of them to be wrong is looked at first.
	if r.List != "" {
		if err := b.lists.CheckRootList(&a, cert, []byte(r.List)); err != nil {
			return adminapi.Authority{}, err
		}
	}
	if err := b.db.InstallAuthority(ctx, a); err != nil {
		return adminapi.Authority{}, err
	}
	b.log.InfoContext(ctx, "root stored", "authority", a.Name, "fingerprint", fingerprint(cert.Raw), "by", by.String())
	if err := b.reload(ctx); err != nil {
		return adminapi.Authority{}, err
	}
	if r.List != "" {
		if _, err := b.PutRootList(ctx, by, a.Name, adminapi.RootListRequest{List: r.List}); err != nil {
			return adminapi.Authority{}, err
		}
	}
	return b.authorityView(&a), nil
}
