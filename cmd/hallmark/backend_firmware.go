package main

import (
	"context"
	"errors"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/fault"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

func (b *backend) firmwareView(a *ota.Artifact) adminapi.Firmware {
	v := adminapi.Firmware{Class: a.Class, Version: string(a.Version), State: string(a.State), Digest: a.Digest, Size: a.Size, Hash: a.Hash(), Request: a.Request, CreatedBy: a.CreatedBy, CreatedAt: a.CreatedAt, DecidedBy: a.DecidedBy, Hardware: []string{}, Url: b.ota.URL(a)}
	m, signers, err := b.ota.Verified(a)
	if m != nil {
		v.Floor, v.Requires, v.Hardware, v.ExpiresAt = string(m.Floor), string(m.Requires), nonNil(m.Hardware), m.Expires
	}
	v.Signers = signers
	if err != nil {
		v.Problem = fault.From(err).What
	}
	return v
}

// UploadFirmware implements [web.Firmware].
func (b *backend) UploadFirmware(ctx context.Context, by access.Actor, digest string, r adminapi.FirmwarePart) (adminapi.FirmwareUpload, error) {
	have, err := b.ota.UploadPart(ctx, by.Tenant, digest, r.Size, r.Offset, r.Octets)
	return adminapi.FirmwareUpload{Have: have, Size: r.Size}, err
}

// PublishFirmware implements [web.Firmware]. What is new is asked for at once.
func (b *backend) PublishFirmware(ctx context.Context, by access.Actor, r adminapi.FirmwareRequest) (adminapi.Firmware, error) {
	a, err := b.ota.Publish(ctx, by.Tenant, by.Name, r.Manifest)
	if err != nil {
		return adminapi.Firmware{}, err
	}
	if a.State == ota.Waiting {
		err = b.second(ctx, by, firmwareKind{b}, firmwareName(&a), releaseOf(&a))
		switch {
		case err == nil: // one person suffices here
			a, err = b.ota.Release(ctx, by.Tenant, a.Class, a.Version, a.Hash(), by.Name)
		case errors.Is(err, errSecondPerson):
			request, _ := fault.From(err).Members["request"].(string)
			a, err = b.ota.Asked(ctx, by.Tenant, a.Class, a.Version, request)
		}
	}
	if err != nil {
		return adminapi.Firmware{}, err
	}
	return b.firmwareView(&a), nil
}

// FirmwareList implements [web.Firmware].
func (b *backend) FirmwareList(ctx context.Context, s access.Scope, class string, p web.Page) ([]adminapi.Firmware, string, error) {
	items, next, err := collect(p.After, p.Limit, inPages(ota.MaxPage, func(after string, n int) ([]ota.Artifact, error) {
		return b.ota.List(ctx, s, class, after, n)
	}, (*ota.Artifact).Name), (*ota.Artifact).Name, nil)
	return mapped(items, b.firmwareView), next, err
}

// Firmware implements [web.Firmware].
func (b *backend) Firmware(ctx context.Context, s access.Scope, class, version string) (adminapi.Firmware, error) {
	a, err := b.ota.Get(ctx, s, class, manifest.Version(version))
	if err != nil {
		return adminapi.Firmware{}, err
	}
	return b.firmwareView(&a), nil
}

// WithdrawFirmware implements [web.Firmware].
func (b *backend) WithdrawFirmware(ctx context.Context, by access.Actor, class, version string) (adminapi.Firmware, error) {
	a, err := b.ota.Withdraw(ctx, by.Tenant, class, manifest.Version(version), by.Name)
	if err != nil {
		return adminapi.Firmware{}, err
	}
	return b.firmwareView(&a), nil
}

// firmwareName names a version in documents: class:version.
func firmwareName(a *ota.Artifact) string { return a.Class + ":" + string(a.Version) }

// releaseSpec is what a second person approves: what the firmware is, in short, and
// the hash of the manifest that was signed.
type releaseSpec struct {
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	CreatedBy string `json:"createdBy"`
	Manifest  string `json:"manifest"` // SHA-256
}

func releaseOf(a *ota.Artifact) releaseSpec {
	return releaseSpec{Digest: a.Digest, Size: a.Size, CreatedBy: a.CreatedBy, Manifest: a.Hash()}
}

// firmwareKind is the release of firmware (S36). It is only ever approved: what
// firmware is, its signers say.
type firmwareKind struct{ *backend }

func (firmwareKind) Name() string                            { return "FirmwareRelease" }
func (firmwareKind) Sees() access.Action                     { return access.ReadFirmware }
func (firmwareKind) Decode(raw []byte) (declare.Spec, error) { return declare.Decode[releaseSpec](raw) }

func (k firmwareKind) find(ctx context.Context, s access.Scope, name string) (ota.Artifact, error) {
	class, version, _ := strings.Cut(name, ":")
	return k.ota.Get(ctx, s, class, manifest.Version(version))
}

// Read gives what was released, nil while it was not.
func (k firmwareKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	a, known, err := absent(k.find(ctx, s, name))
	if err != nil || !known || a.State != ota.Released {
		return nil, err
	}
	return releaseOf(&a), nil
}

// List gives none: that firmware is released is an act, not how things are.
func (firmwareKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge implements [declare.Kind].
func (k firmwareKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.PublishFirmware}}
	if was != nil && declare.Equal(was, want) {
		return v, nil
	}
	a, err := k.find(ctx, s, name)
	if err != nil {
		return v, err
	}
	if a.State != ota.Waiting || !declare.Equal(want, releaseOf(&a)) {
		return v, ota.ErrApproval.New("%s is %s.", name, a.State).With("path", "manifest")
	}
	v.Dangerous = "firmware"
	v.Notes = append(v.Notes, "no device gets it by this alone: a campaign does; see what was signed with hallmark ota show "+shellWord(a.Class)+" "+shellWord(string(a.Version)))
	return v, nil
}

// Put implements [declare.Kind].
func (k firmwareKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	a, err := k.find(ctx, by.Scope(), name)
	if err == nil {
		_, err = k.ota.Release(ctx, by.Tenant, a.Class, a.Version, want.(releaseSpec).Manifest, by.Name)
	}
	return declare.Outcome{}, err
}
