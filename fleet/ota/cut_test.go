package ota_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"hallmark/device"
	"hallmark/fleet/campaign"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/durable"
)

// cutSteps are those of a change of firmware at which the power can be cut; "write" is
// the file that says which slot boots, each time that it is written.
var cutSteps = []string{"firmware-begin", "firmware-fetch", "firmware-part", "firmware-install", "firmware-installed", "firmware-reboot", "firmware-boot", "firmware-commit", "firmware-report"}

// fragile is a device whose power is cut once, at the n-th time that a step comes; after
// also lets the step happen first, where it is a write.
type fragile struct {
	*unit
	at    string
	n     int
	after bool

	mu     sync.Mutex
	seen   int
	off    bool // the power is cut
	cut    bool // it was
	cancel context.CancelFunc
}

func (f *fragile) step(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == f.at && !f.cut {
		if f.seen++; f.seen == f.n {
			f.off, f.cut = true, true
			f.cancel()
		}
	}
	if f.off {
		return syscall.EINTR
	}
	return nil
}

func (f *fragile) write(name string, data []byte, perm os.FileMode) error {
	at := "write " + filepath.Base(name)
	if !f.after {
		if err := f.step(at); err != nil {
			return err
		}
		return durable.WriteFile(name, data, perm)
	}
	f.mu.Lock()
	off := f.off
	f.mu.Unlock()
	if off {
		return syscall.EINTR
	}
	if err := durable.WriteFile(name, data, perm); err != nil {
		return err
	}
	return f.step(at)
}

// live is life after life, until the test says that it is enough.
func (f *fragile) live(ctx context.Context) {
	f.cfg.Hooks = &device.Hooks{Step: f.step, Write: f.write}
	for ctx.Err() == nil {
		life, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.off, f.cancel = false, cancel
		f.mu.Unlock()
		err := device.Run(life, f.cfg)
		cancel()
		f.mu.Lock()
		off := f.off
		f.mu.Unlock()
		if err != nil && !off {
			f.s.t.Errorf("%s: the agent ended by itself: %v", f.thing, err)
			return
		}
		f.bootable()
	}
}

// bootable checks what a boot loader finds without power ever having been back: the slot
// that boots has its image, whole.
func (f *fragile) bootable() {
	raw, err := os.ReadFile(filepath.Join(f.cfg.Dir, "firmware.json"))
	if errors.Is(err, os.ErrNotExist) {
		return // the factory's image
	}
	var disk struct {
		Slot   string
		Images map[string]struct{ Digest string }
	}
	if err == nil {
		err = json.Unmarshal(raw, &disk)
	}
	if err != nil {
		f.s.t.Errorf("%s, cut at %s %d: %v", f.thing, f.at, f.n, err)
		return
	}
	i, ok := disk.Images[disk.Slot]
	if !ok {
		f.s.t.Errorf("%s, cut at %s %d: nothing is in slot %s", f.thing, f.at, f.n, disk.Slot)
	}
	if i.Digest == "" {
		return
	}
	image, err := os.ReadFile(filepath.Join(f.cfg.Dir, "firmware-"+disk.Slot+".img"))
	if sum := sha256.Sum256(image); err != nil || hex.EncodeToString(sum[:]) != i.Digest {
		f.s.t.Errorf("%s, cut at %s %d: slot %s has another image: %v", f.thing, f.at, f.n, disk.Slot, err)
	}
}

// TestFirmware_APowerCutAtEachStep: the device always boots an image that worked. It ends
// on the new one where that is good and on the one before where it is not, and the
// service hears which.
func TestFirmware_APowerCutAtEachStep(t *testing.T) {
	s := newSite(t)
	builds := map[manifest.Version]string{"1.1": "good", "1.2": "ill"}
	for v, kind := range builds {
		s.released(v, kind, func(m *manifest.Manifest) { m.Class = "lamp-" + kind })
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	all := map[manifest.Version][]*fragile{}
	n := 0
	for v, kind := range builds {
		add := func(at string, times int, after bool) {
			f := &fragile{unit: s.unit(n), at: at, n: times, after: after}
			f.cfg.Firmware.Class = "lamp-" + kind
			n++
			all[v] = append(all[v], f)
			wg.Go(func() { f.live(ctx) })
		}
		long := os.Getenv("HALLMARK_PROOF") != ""
		for _, step := range cutSteps {
			// What comes before the trial is the same for both builds.
			if kind == "good" || step == "firmware-boot" || step == "firmware-report" || long && step != "firmware-commit" {
				add(step, 1, false)
			}
		}
		for times := 1; times <= 5; times++ {
			if kind == "good" || times > 3 || long {
				add("write firmware.json", times, times%2 == 0)
			}
			if long {
				add("write firmware.json", times, times%2 == 1)
			}
		}
	}
	for v, list := range all {
		var units []*unit
		for _, f := range list {
			units = append(units, f.unit)
		}
		sp := spec(units...)
		sp.Parameters = json.RawMessage(fmt.Sprintf(`{"class":"lamp-%s","version":%q,"healthySeconds":1,"connectSeconds":30}`, builds[v], v))
		s.rollout("to-"+builds[v], v, sp)
	}
	want := map[manifest.Version]campaign.MemberState{"1.1": campaign.Done, "1.2": campaign.Failed}
	safe := map[manifest.Version]string{"1.1": "1.1", "1.2": "1.0"}
	for v, list := range all {
		for _, f := range list {
			// A device tells how it ended before it notes that it did.
			s.eventually(fmt.Sprintf("%s, cut at %s %d", f.thing, f.at, f.n), func() bool {
				m := s.member("to-"+builds[v], f.unit)
				if m.State == campaign.Done || m.State == campaign.Failed {
					return true
				}
				time.Sleep(10 * time.Millisecond)
				return false
			})
			if m := s.member("to-"+builds[v], f.unit); m.State != want[v] || f.boots() != safe[v] {
				t.Errorf("%s, cut at %s %d: %s %s %s, boots %s", f.thing, f.at, f.n, m.State, m.Code, m.Detail, f.boots())
				f.says()
			}
			f.mu.Lock()
			if !f.cut {
				t.Errorf("%s was never cut at %s %d", f.thing, f.at, f.n)
			}
			f.mu.Unlock()
		}
	}
}

// TestFirmware_ARisenFloorIsReported at once, so that who cannot take a version is not
// asked.
func TestFirmware_ARisenFloorIsReported(t *testing.T) {
	s := newSite(t)
	u := s.unit(1)
	u.start()
	s.released("1.1", "good", func(m *manifest.Manifest) { m.Floor = "1.1" })
	s.released("1.0.5", "good", nil)
	s.rollout("c1", "1.1", spec(u))
	s.eventually("1.1 is done", func() bool { return s.member("c1", u).State == campaign.Done })
	s.rollout("c2", "1.0.5", spec(u))
	s.eventually("the campaign knows", func() bool { return s.member("c2", u).State != "" && s.member("c2", u).Code != "" })
	if m := s.member("c2", u); m.State != campaign.Skipped || m.Code != "below-floor" {
		t.Errorf("%+v", m)
	}
}
