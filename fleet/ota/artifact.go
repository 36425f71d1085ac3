package ota

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota/manifest"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

// State is how far an artifact is.
type State string

// The states.
const (
	Waiting   State = "awaiting-approval" // of a second person; no device gets it
	Released  State = "released"
	Withdrawn State = "withdrawn" // no device gets it any more; final
)

// Artifact is an image of firmware with the manifest that was signed for it.
type Artifact struct {
	Tenant    string
	Class     string
	Version   manifest.Version
	State     State
	Manifest  []byte // as it was signed
	Digest    string // SHA-256 of the image, hex
	Size      int64
	Request   string // the approval request
	CreatedBy string
	DecidedBy string // who released or withdrew it
	CreatedAt time.Time
	UpdatedAt time.Time
	Row       int64 // version of the row
}

// Name names an artifact in its tenant.
func (a *Artifact) Name() string { return a.Class + "/" + string(a.Version) }

// Store persists artifacts. Contract: Atomic runs fn in one transaction that every
// method joins, and may run it again. PutArtifact changes the artifact if its row is
// still was, else it gives [ErrChanged]; was 0 adds it and gives [ErrExists]. What is
// not there is [ErrUnknown].
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	PutArtifact(ctx context.Context, a Artifact, was int64) error
	Artifact(ctx context.Context, s access.Scope, class string, v manifest.Version) (Artifact, error)
	// Artifacts lists in the order of [Artifact.Name], after one; class "" means all.
	Artifacts(ctx context.Context, s access.Scope, class, after string, limit int) ([]Artifact, error)
	// AllArtifacts lists those of all tenants, for what is counted.
	AllArtifacts(ctx context.Context) ([]Artifact, error)
	// RunningVersions counts the things of a tenant by the class and the version that
	// they report, both folded.
	RunningVersions(ctx context.Context, tenant string) ([]Running, error)
}

// Running is how many devices say that they run a version.
type Running struct {
	Class   string // folded
	Version string // as reported: it may be none
	Devices int64
}

// Blobs keeps images by tenant and SHA-256. Put stores what r gives if it has this
// size and digest, and nothing else; storing again is harmless. Open gives
// [ErrBlob] for what is not there.
type Blobs interface {
	Put(ctx context.Context, tenant, digest string, size int64, r io.Reader) error
	Open(ctx context.Context, tenant, digest string) (Blob, error)
}

// Blob is an image that can be read from anywhere.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Shadows says what devices report of themselves; [shadow.Service] does.
type Shadows interface {
	Get(ctx context.Context, k shadow.Key) ([]byte, error)
}

// Things knows types of things; [registry.Registry] does.
type Things interface {
	Get(ctx context.Context, s access.Scope, name fleet.ThingName) (registry.Thing, error)
}

// Presence knows the connections of a thing.
type Presence interface {
	Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error)
}

// Executions knows what a device has to do; [jobs.Store] does.
type Executions interface {
	Execution(ctx context.Context, s access.Scope, job string, thing fleet.ThingName, number int64) (jobs.Execution, error)
}

// Config makes a Service.
type Config struct {
	Store    Store
	Blobs    Blobs
	Staging  string          // directory for images that come in parts; "" takes none
	Trust    *manifest.Trust // nil: no firmware is taken
	Shadows  Shadows
	Things   Things
	Presence Presence
	// Jobs and Campaigns tell streams which image a device may have.
	Jobs      Executions
	Campaigns Campaigns
	// HTTPS is the address of the device door; nil and "" offer no URLs.
	HTTPS func() string
	// Key makes the MAC of URLs, with a key that is outside of the database.
	Key func(domain string, fields ...[]byte) []byte
	Log *slog.Logger
	Now func() time.Time
}

// Service is firmware, and the [campaign.Action] of the kind update-firmware. It is
// safe for concurrent use.
type Service struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	sends sends
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, log: cfg.Log, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

const (
	// MaxImage is the largest image that is published.
	MaxImage = 1 << 30
	// MaxPage is the most artifacts of a list.
	MaxPage = 250
)

// Upload stores an image. It says nothing about it: what it is, a manifest says.
func (s *Service) Upload(ctx context.Context, tenant, digest string, size int64, r io.Reader) error {
	if s.cfg.Trust == nil {
		return ErrOff.New("")
	}
	if raw, err := hex.DecodeString(digest); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != digest {
		return manifest.ErrImage.New("Its SHA-256 is 64 of 0-9 a-f.")
	}
	if size < 1 || size > MaxImage {
		return manifest.ErrImage.New("An image has 1 to %d octets, and they are counted before.", MaxImage)
	}
	return s.cfg.Blobs.Put(ctx, tenant, digest, size, r)
}

// Publish takes a signed manifest whose image was uploaded. Nobody gets it before
// [Service.Release], which a second person asks for. The same again changes nothing.
func (s *Service) Publish(ctx context.Context, tenant, by string, raw []byte) (Artifact, error) {
	m, err := s.verify(raw)
	if err != nil {
		return Artifact{}, err
	}
	now := s.clock()
	if m.Expired(now) {
		return Artifact{}, manifest.ErrExpired.New("It ended at %s.", m.Expires.Format(time.RFC3339))
	}
	b, err := s.cfg.Blobs.Open(ctx, tenant, m.DigestHex())
	if err != nil && !errors.Is(err, ErrBlob) {
		return Artifact{}, err
	}
	if err != nil {
		return Artifact{}, manifest.ErrImage.Wrap(err, "The image with the SHA-256 %s was not uploaded.", m.DigestHex())
	}
	defer b.Close()
	if b.Size() != m.Size {
		return Artifact{}, manifest.ErrImage.New("It has %d octets, and %d were signed.", b.Size(), m.Size)
	}
	a := Artifact{Tenant: tenant, Class: m.Class, Version: m.Version, State: Waiting, Manifest: slices.Clone(raw), Digest: m.DigestHex(), Size: m.Size, CreatedBy: by, CreatedAt: now, UpdatedAt: now, Row: 1}
	err = s.cfg.Store.Atomic(ctx, func(ctx context.Context) error { return s.cfg.Store.PutArtifact(ctx, a, 0) })
	if errors.Is(err, ErrExists) {
		have, gerr := s.Get(ctx, access.Scope{Tenant: tenant}, m.Class, m.Version)
		if gerr == nil && slices.Equal(have.Manifest, raw) && have.State != Withdrawn {
			return have, nil
		}
		return Artifact{}, cmp.Or(gerr, err)
	}
	if err == nil {
		s.log.InfoContext(ctx, "firmware published", "tenant", tenant, "class", a.Class, "version", string(a.Version), "digest", a.Digest, "by", by)
	}
	return a, err
}

// verify reads a manifest that enough of the pinned signers have signed.
func (s *Service) verify(raw []byte) (*manifest.Manifest, error) {
	if s.cfg.Trust == nil {
		return nil, ErrOff.New("")
	}
	m, _, err := s.cfg.Trust.Verify(raw, s.now())
	return m, err
}

// Get gives an artifact.
func (s *Service) Get(ctx context.Context, scope access.Scope, class string, v manifest.Version) (Artifact, error) {
	return s.cfg.Store.Artifact(ctx, scope, class, v)
}

// List gives the next artifacts in the order of their names; class "" means all.
func (s *Service) List(ctx context.Context, scope access.Scope, class, after string, limit int) ([]Artifact, error) {
	return s.cfg.Store.Artifacts(ctx, scope, class, after, max(1, min(limit, MaxPage)))
}

// change changes an artifact's state for a person.
func (s *Service) change(ctx context.Context, tenant, class string, v manifest.Version, f func(a *Artifact) error) (a Artifact, err error) {
	err = s.cfg.Store.Atomic(ctx, func(ctx context.Context) error {
		a, err = s.Get(ctx, access.Scope{Tenant: tenant}, class, v)
		if err != nil {
			return err
		}
		was := a
		if err := f(&a); err != nil {
			return err
		}
		if a.State == was.State && a.Request == was.Request {
			return nil
		}
		a.UpdatedAt, a.Row = s.clock(), was.Row+1
		return s.cfg.Store.PutArtifact(ctx, a, was.Row)
	})
	return a, err
}

// Asked notes the request by which somebody is to release the artifact.
func (s *Service) Asked(ctx context.Context, tenant, class string, v manifest.Version, request string) (Artifact, error) {
	return s.change(ctx, tenant, class, v, func(a *Artifact) error { a.Request = request; return nil })
}

// Release lets devices have the artifact. digest is that of the manifest that was
// approved, see [Artifact.Hash].
func (s *Service) Release(ctx context.Context, tenant, class string, v manifest.Version, hash, by string) (Artifact, error) {
	a, err := s.change(ctx, tenant, class, v, func(a *Artifact) error {
		switch {
		case a.Hash() != hash:
			return ErrApproval.New("")
		case a.State == Withdrawn:
			return ErrState.New("It is withdrawn.")
		}
		if _, err := s.verify(a.Manifest); err != nil {
			return err
		}
		a.State, a.DecidedBy = Released, by
		return nil
	})
	if err == nil {
		s.log.InfoContext(ctx, "firmware released", "tenant", tenant, "class", class, "version", string(v), "by", by)
	}
	return a, err
}

// Withdraw keeps the artifact from every device that does not have it, for ever. One
// person may: it only stops.
func (s *Service) Withdraw(ctx context.Context, tenant, class string, v manifest.Version, by string) (Artifact, error) {
	a, err := s.change(ctx, tenant, class, v, func(a *Artifact) error { a.State, a.DecidedBy = Withdrawn, by; return nil })
	if err == nil {
		s.log.WarnContext(ctx, "firmware withdrawn", "tenant", tenant, "class", class, "version", string(v), "by", by)
	}
	return a, err
}

// released gives an artifact that devices may have, with its manifest verified anew:
// a writer of the database makes no firmware.
func (s *Service) released(ctx context.Context, tenant, class string, v manifest.Version) (Artifact, *manifest.Manifest, error) {
	a, err := s.Get(ctx, access.Scope{Tenant: tenant}, class, v)
	if err != nil {
		return a, nil, err
	}
	if a.State != Released {
		return a, nil, ErrState.New("%s %s is %s.", class, v, a.State)
	}
	m, err := s.verify(a.Manifest)
	if err == nil && (m.Class != a.Class || m.Version != a.Version || m.DigestHex() != a.Digest || m.Size != a.Size) {
		err = manifest.ErrManifest.New("It is not that of %s %s.", class, v)
	}
	return a, m, err
}

// Verified gives what the manifest says, and the identifiers of the signers that
// count. With an error it is what the manifest says without anybody vouching for it,
// nil if it cannot be read.
func (s *Service) Verified(a *Artifact) (*manifest.Manifest, []string, error) {
	if s.cfg.Trust == nil {
		return nil, nil, ErrOff.New("")
	}
	m, signers, err := s.cfg.Trust.Verify(a.Manifest, s.now())
	if err == nil {
		return m, signers, nil
	}
	e, perr := manifest.Parse(a.Manifest)
	if perr != nil {
		return nil, nil, err
	}
	said := e.Unverified()
	return &said, nil, err
}

// URL is the address of an artifact as jobs name it, to be signed for each device; ""
// if the service has none.
func (s *Service) URL(a *Artifact) string {
	if s.door() == "" {
		return ""
	}
	return s.door() + pathOf(a.Class, a.Version)
}
