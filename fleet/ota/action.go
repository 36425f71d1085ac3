package ota

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/ota/manifest"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/internal/strictjson"
)

var (
	_ campaign.Action   = (*Service)(nil)
	_ campaign.Reverser = (*Service)(nil)
	_ campaign.Grave    = (*Service)(nil)
)

// Hash is what a second person approves: the SHA-256 of the signed manifest.
func (a *Artifact) Hash() string {
	sum := sha256.Sum256(a.Manifest)
	return hex.EncodeToString(sum[:])
}

// Parameters are those of a campaign of the kind update-firmware.
type Parameters struct {
	Class   string           `json:"class"`
	Version manifest.Version `json:"version"`
	// HealthySeconds is for how long a device has to be up, connected and well with
	// the new image; 0 means 600. The device watches itself, and the service the device.
	HealthySeconds int `json:"healthySeconds,omitempty"`
	// ConnectSeconds is how long the new image may take to connect before the device
	// goes back; 0 means 300.
	ConnectSeconds int `json:"connectSeconds,omitempty"`
	// Manifest is the SHA-256 of the manifest that is rolled out: what two people
	// approved stays what devices get. Check fills it in.
	Manifest string `json:"manifest,omitempty"`
}

const maxSeconds = 7 * 24 * 3600

func parse(raw json.RawMessage) (p Parameters, err error) {
	if err := strictjson.Decode(raw, &p); err != nil {
		return p, ErrParameters.Wrap(err, "They are an object with class and version.")
	}
	return p, nil
}

func (p *Parameters) healthy() time.Duration { return time.Duration(p.HealthySeconds) * time.Second }

// AlwaysTwo implements [campaign.Grave]: new firmware is dangerous on one device too
// (S36).
func (s *Service) AlwaysTwo() bool { return true }

// Check implements [campaign.Action].
func (s *Service) Check(ctx context.Context, tenant string, spec *campaign.Spec) error {
	p, err := parse(spec.Parameters)
	if err != nil {
		return err
	}
	switch {
	case p.HealthySeconds < 0 || p.HealthySeconds > maxSeconds || p.ConnectSeconds < 0 || p.ConnectSeconds > maxSeconds:
		return ErrParameters.New("healthySeconds and connectSeconds are 0 to %d.", maxSeconds)
	case spec.Reason != "" && spec.Reason != campaign.NewBuild && spec.Reason != campaign.OnRequest:
		return ErrParameters.New("Firmware is not changed for the reason %.20s.", spec.Reason)
	}
	if p.HealthySeconds == 0 {
		p.HealthySeconds = 600
	}
	if p.ConnectSeconds == 0 {
		p.ConnectSeconds = 300
	}
	if spec.Reason == "" {
		spec.Reason = campaign.NewBuild
	}
	if spec.Timeout != 0 && spec.Timeout <= p.healthy() {
		return ErrParameters.New("The timeout is not longer than the %d seconds that a device has to be healthy for.", p.HealthySeconds)
	}
	a, m, err := s.released(ctx, tenant, p.Class, p.Version)
	if err != nil {
		return err
	}
	if m.Expired(s.now()) {
		return manifest.ErrExpired.New("It ended at %s.", m.Expires.Format(time.RFC3339))
	}
	if p.Manifest != "" && p.Manifest != a.Hash() {
		return ErrParameters.New("The manifest of %s %s is another.", p.Class, p.Version)
	}
	p.Manifest = a.Hash()
	spec.Parameters, err = json.Marshal(p)
	return err
}

// facts is what a device reports of itself, under "device" in its shadow.
type facts struct {
	Class    string           `json:"class"`
	Version  manifest.Version `json:"version"`
	Hardware string           `json:"hardware"`
	Floor    manifest.Version `json:"floor"`
}

// reported gives what a device says it runs; nothing if it says nothing that can be
// read. That is a device's own word: it saves offers, and proves nothing.
func (s *Service) reported(ctx context.Context, tenant string, thing fleet.ThingName) (facts, error) {
	raw, err := s.cfg.Shadows.Get(ctx, shadow.Key{Tenant: tenant, Thing: thing})
	if errors.Is(err, shadow.ErrUnknown) {
		return facts{}, nil
	}
	if err != nil {
		return facts{}, err
	}
	var doc struct {
		State struct {
			Reported struct {
				Device struct {
					Firmware facts `json:"firmware"`
				} `json:"device"`
			} `json:"reported"`
		} `json:"state"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return facts{}, nil
	}
	f := doc.State.Reported.Device.Firmware
	for _, v := range []*manifest.Version{&f.Version, &f.Floor} {
		if _, err := manifest.ParseVersion(string(*v)); err != nil {
			*v = ""
		}
	}
	return f, nil
}

// Why a device is left alone.
const (
	skipClass     = "other-class"
	skipHardware  = "other-hardware"
	skipVersion   = "already-version"
	skipFloor     = "below-floor"
	skipRequires  = "too-old"
	skipExpired   = "manifest-expired"
	skipWithdrawn = "firmware-withdrawn"
)

// Wants implements [campaign.Action].
func (s *Service) Wants(ctx context.Context, c *campaign.Campaign, thing fleet.ThingName) (campaign.Want, error) {
	p, err := parse(c.Parameters)
	if err != nil {
		return campaign.Want{}, err
	}
	a, m, err := s.released(ctx, c.Tenant, p.Class, p.Version)
	if errors.Is(err, ErrState) || err == nil && a.Hash() != p.Manifest {
		return campaign.Want{Skip: skipWithdrawn, Words: "The firmware is not released any more."}, nil
	}
	if err != nil {
		return campaign.Want{}, err
	}
	f, err := s.reported(ctx, c.Tenant, thing)
	if err != nil {
		return campaign.Want{}, err
	}
	w := campaign.Want{Before: string(f.Version)}
	class := f.Class
	if class == "" {
		t, err := s.cfg.Things.Get(ctx, access.Scope{Tenant: c.Tenant}, thing)
		if err != nil && !errors.Is(err, registry.ErrThingUnknown) {
			return w, err
		}
		class = t.Type
	}
	// What the device does not say, it is asked by the offer: it refuses by itself.
	d := manifest.Device{Class: class, Hardware: f.Hardware, Version: f.Version, Floor: f.Floor}
	if d.Class == "" {
		d.Class = m.Class
	}
	if d.Hardware == "" {
		d.Hardware = m.Hardware[0]
	}
	if d.Version == "" {
		d.Version = m.Requires
	}
	if f.Version != "" && f.Version.Compare(m.Version) == 0 {
		w.Skip, w.Words = skipVersion, "It runs "+string(f.Version)+"."
		return w, nil
	}
	err = m.Fits(d, s.now())
	for code, is := range map[string]error{skipClass: manifest.ErrClass, skipHardware: manifest.ErrHardware, skipFloor: manifest.ErrFloor, skipRequires: manifest.ErrRequires, skipExpired: manifest.ErrExpired} {
		if errors.Is(err, is) {
			w.Skip, w.Words = code, err.Error()
		}
	}
	return w, nil
}

// document is what a device gets. Only what is in the manifest is signed: the rest is
// how to get the image and how to try it.
type document struct {
	Operation string          `json:"operation"`
	Version   int             `json:"version"`
	Campaign  string          `json:"campaign"`
	Reason    campaign.Reason `json:"reason"`
	Undo      bool            `json:"undo,omitempty"`
	Manifest  string          `json:"manifest,omitempty"` // base64
	URL       string          `json:"url,omitempty"`
	Stream    *streamAt       `json:"stream,omitempty"`
	Healthy   *healthyFor     `json:"healthy,omitempty"`
}

type streamAt struct {
	Name string `json:"name"`
	File int    `json:"file"`
}

type healthyFor struct {
	Seconds int `json:"seconds"`
	Connect int `json:"connectSeconds"`
}

// Document implements [campaign.Action].
func (s *Service) Document(ctx context.Context, c *campaign.Campaign, undo bool) (string, error) {
	p, err := parse(c.Parameters)
	if err != nil {
		return "", err
	}
	d := document{Operation: string(campaign.Firmware), Version: 1, Campaign: c.ID, Reason: c.Reason, Undo: undo, Healthy: &healthyFor{p.HealthySeconds, p.ConnectSeconds}}
	if !undo {
		a, m, err := s.released(ctx, c.Tenant, p.Class, p.Version)
		if err != nil {
			return "", err
		}
		if a.Hash() != p.Manifest {
			return "", ErrParameters.New("The manifest of %s %s is another.", p.Class, p.Version)
		}
		d.Manifest = base64.StdEncoding.EncodeToString(a.Manifest)
		if m.Size <= maxStreamed {
			d.Stream = &streamAt{Name: c.Job(false)}
		}
		if door := s.door(); door != "" {
			d.URL = "${aws:iot:s3-presigned-url:" + door + pathOf(p.Class, p.Version) + "}"
		}
	}
	out, err := json.Marshal(d)
	return string(out), err
}

// door is the address of the device door without a slash.
func (s *Service) door() string {
	if s.cfg.HTTPS == nil {
		return ""
	}
	return strings.TrimSuffix(s.cfg.HTTPS(), "/")
}

// Judge implements [campaign.Action]. A device that says it is well with the new
// version is believed when the connection that it has lasts as long as was wanted, or
// when it is still there so long after it said so.
func (s *Service) Judge(ctx context.Context, c *campaign.Campaign, m *campaign.Member, r campaign.Report) (campaign.Verdict, error) {
	p, err := parse(c.Parameters)
	if err != nil {
		return campaign.Wait(), err
	}
	f, err := s.reported(ctx, c.Tenant, m.Thing)
	if err != nil {
		return campaign.Wait(), err
	}
	if f.Version != "" && f.Version.Compare(p.Version) != 0 {
		return campaign.Fail("firmware-fell-back", "It runs "+string(f.Version)+"."), nil
	}
	now := s.clock()
	if m.State == campaign.Soaking {
		if r.Connected || !r.LastSeen.Before(m.Since) {
			return campaign.Proven(string(p.Version)), nil
		}
		return campaign.Wait(), nil
	}
	if v := r.Details["version"]; manifest.Version(v) != p.Version {
		return campaign.Fail("firmware-other-version", "It says that it runs the version \""+v+"\"."), nil
	}
	if !r.Connected {
		return campaign.Wait(), nil
	}
	since := r.Updated
	states, err := s.cfg.Presence.Presence(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return campaign.Wait(), err
	}
	for _, st := range states {
		// A connection from before the job is one of the old image.
		if st.Connected && st.At.Before(since) && st.At.After(m.Began) {
			since = st.At
		}
	}
	if now.Before(since.Add(p.healthy())) {
		return campaign.Wait(), nil
	}
	return campaign.Proven(string(p.Version)), nil
}

// Finish implements [campaign.Action]: the device keeps its former image as the one
// that it can go back to, so there is nothing that cannot be taken back.
func (s *Service) Finish(context.Context, *campaign.Campaign, *campaign.Member) error { return nil }

// Undo implements [campaign.Action]: it is all the device's.
func (s *Service) Undo(context.Context, *campaign.Campaign, *campaign.Member) error { return nil }

// Reversible implements [campaign.Reverser]: the device decides by the floor and by
// whether it still has the image before.
func (s *Service) Reversible(context.Context, *campaign.Campaign, *campaign.Member) (bool, error) {
	return true, nil
}
