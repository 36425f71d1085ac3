package device

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"hallmark/fleet/ota/manifest"
	"hallmark/internal/strictjson"
)

// Firmware says what a device runs and how it gets something else. The image itself
// is simulated: it is a file in one of two slots, and Start and Health stand for the
// boot loader and for what the product knows of its own well-being.
type Firmware struct {
	Trust    *manifest.Trust // whose manifests count; installed by the factory
	Class    string
	Hardware string
	Version  manifest.Version // that the factory installed
	Floor    manifest.Version // that the factory set; "" is none
	// Start is called with each boot of an image that is on trial, and its file, which
	// is "" for the factory's. An error is an image that does not come up.
	Start func(ctx context.Context, v manifest.Version, image string) error
	// Health is asked again and again while an image is on trial. An error is an image
	// that is not well.
	Health func(ctx context.Context, v manifest.Version, image string) error
}

const firmwareFile = "firmware.json"

// The further steps of a change of firmware; see also those of a change of keys.
const (
	stepFetch   = "download" // the image is on its way into the other slot
	stepHealthy = "healthy"  // the new image did well and is in use; the service is to be told
)

// Why a device went back to the image before.
const (
	codeStart   = "firmware-start"
	codeConnect = "firmware-not-connected"
	codeHealth  = "firmware-not-healthy"
	codeBoots   = "firmware-restarts"
	codeWayBack = "firmware-no-way-back"
	maxBoots    = 3 // of an image on trial
	maxFetches  = 3 // of an image that turns out to be another
)

// slotImage is what is in a slot, and worked when it ran last.
type slotImage struct {
	Version manifest.Version `json:"version"`
	Floor   manifest.Version `json:"floor,omitempty"`
	Digest  string           `json:"digest,omitempty"` // "" is the factory's
}

// flash is firmware.json: the slots, and a change of them. It is replaced as one
// step: the boot loader's word about which slot boots is in it, so at every moment
// there is an image that worked.
type flash struct {
	Slot   string               `json:"slot"` // that boots
	Images map[string]slotImage `json:"images"`
	Floor  manifest.Version     `json:"floor,omitempty"`

	Job       string    `json:"job,omitempty"`
	Execution int64     `json:"execution,omitempty"`
	Campaign  string    `json:"campaign,omitempty"`
	Undo      bool      `json:"undo,omitempty"`
	Step      string    `json:"step,omitempty"`
	From      string    `json:"from,omitempty"`
	To        string    `json:"to,omitempty"`
	Next      slotImage `json:"next,omitzero"`     // what To is to have
	Boots     int       `json:"boots,omitempty"`   // of To, on trial
	Fetches   int       `json:"fetches,omitempty"` // that gave another image
	Healthy   int       `json:"healthy,omitempty"` // seconds
	Connect   int       `json:"connect,omitempty"` // seconds
	Code      string    `json:"code,omitempty"`
	Detail    string    `json:"detail,omitempty"`
}

// slots is the firmware of a running device.
type slots struct {
	mu      sync.Mutex
	flash   *flash
	running string        // slot whose image runs
	changed chan struct{} // a trial is decided

	began     time.Time // of this life of an image on trial
	connected time.Time // the first time in it
	last      time.Time // the last time that it was connected
}

// loadFlash reads the slots. A device that never had anything else has the factory's
// image. A file that cannot be read is a boot loader that knows nothing: that is the
// factory's image too.
func loadFlash(dir string, f *Firmware) (*flash, error) {
	fresh := &flash{Slot: "A", Images: map[string]slotImage{"A": {Version: f.Version}}, Floor: f.Floor}
	raw, err := os.ReadFile(filepath.Join(dir, firmwareFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, ErrState.Wrap(err, "")
	}
	var t flash
	if strictjson.Decode(raw, &t) != nil || t.Images[t.Slot].Version == "" {
		return fresh, nil
	}
	return &t, nil
}

// flashed gives a copy of the slots.
func (r *runner) flashed() flash {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	return *r.slots.flash
}

// reflash writes the slots with a change, which counts only once it is on disk.
func (r *runner) reflash(f func(t *flash)) error {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	return r.putFlash(f)
}

// putFlash is reflash for whoever holds the lock.
func (r *runner) putFlash(f func(t *flash)) error {
	next := *r.slots.flash
	next.Images = map[string]slotImage{}
	for slot, i := range r.slots.flash.Images {
		next.Images[slot] = i
	}
	f(&next)
	b, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = r.cfg.write(filepath.Join(r.cfg.Dir, firmwareFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return ErrFirmware.Wrap(err, "What is in the slots cannot be written.")
	}
	r.slots.flash = &next
	return nil
}

// image is the file of a slot.
func (r *runner) image(slot string) string {
	return filepath.Join(r.cfg.Dir, "firmware-"+slot+".img")
}

// simulated is the file of the image on trial; the factory's has none.
func (r *runner) simulated(t *flash) string {
	if t.Next.Digest == "" {
		return ""
	}
	return r.image(t.To)
}

// bootImage is what a boot loader does with each boot: the image that is on trial
// gets so many boots, and the one that worked is started when they are used up.
func (r *runner) bootImage(ctx context.Context) error {
	if r.cfg.Firmware == nil {
		return nil
	}
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	if r.slots.flash == nil {
		t, err := loadFlash(r.cfg.Dir, r.cfg.Firmware)
		if err != nil {
			return err
		}
		r.slots.flash = t
	}
	t := r.slots.flash
	r.slots.running = t.Slot
	r.slots.began, r.slots.connected, r.slots.last = time.Now(), time.Time{}, time.Time{}
	if t.Step != stepTrial {
		return nil
	}
	if t.Boots >= maxBoots {
		r.goBack(codeBoots, "It restarted again and again.")
		return nil
	}
	// Without a count on disk an image that never comes up would be tried for ever.
	if err := r.putFlash(func(t *flash) { t.Boots++ }); err != nil {
		r.goBack(codeOf(err), wordsOf(err))
		return nil
	}
	if err := r.cfg.step("firmware-boot"); err != nil {
		return err
	}
	if start := r.cfg.Firmware.Start; start != nil {
		if err := start(ctx, t.Next.Version, r.simulated(t)); err != nil {
			r.goBack(codeStart, short(err.Error()))
			return nil
		}
	}
	r.slots.running = t.To
	r.event(Event{Event: EventFirmware, Job: t.Job, Slot: t.To, Details: map[string]string{"step": stepTrial, "version": string(t.Next.Version)}})
	return nil
}

// goBack decides against an image on trial: the one that worked runs from now on. The
// caller holds the lock. Where that cannot be written it counts for this life, and
// the boots of the image are used up soon.
func (r *runner) goBack(code, why string) {
	f := func(t *flash) { t.Step, t.Code, t.Detail = stepFallback, code, why }
	if err := r.putFlash(f); err != nil {
		next := *r.slots.flash
		f(&next)
		r.slots.flash = &next
	}
	t := r.slots.flash
	r.slots.running = t.Slot
	r.event(Event{Event: EventFallback, Job: t.Job, Slot: t.Slot, Code: code, Reason: why})
	nudge(r.slots.changed)
}

// watchImage decides about an image on trial, for as long as the device runs.
func (r *runner) watchImage(ctx context.Context) {
	if r.cfg.Firmware == nil {
		return
	}
	for {
		every := time.Second
		if t := r.flashed(); t.Step == stepTrial {
			every = max(min(every, time.Duration(t.Healthy)*time.Second/20), 20*time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		if r.judgeImage(ctx) {
			r.startAnew(ctx)
		}
	}
}

// judgeImage looks once; it tells whether the device has to start anew.
func (r *runner) judgeImage(ctx context.Context) (again bool) {
	r.slots.mu.Lock()
	t, running := *r.slots.flash, r.slots.running
	r.slots.mu.Unlock()
	if t.Step != stepTrial || running != t.To {
		return false
	}
	var ill error
	if h := r.cfg.Firmware.Health; h != nil {
		ill = h(ctx, t.Next.Version, r.simulated(&t))
	}
	now, online := time.Now(), r.session.Load() != nil
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	if r.slots.flash.Step != stepTrial || ctx.Err() != nil {
		return false
	}
	if online {
		if r.slots.last = now; r.slots.connected.IsZero() {
			r.slots.connected = now
		}
	}
	away := r.slots.last
	if away.IsZero() {
		away = r.slots.began
	}
	switch {
	case ill != nil:
		r.goBack(codeHealth, short(ill.Error()))
		return true
	case now.Sub(away) > time.Duration(t.Connect)*time.Second:
		r.goBack(codeConnect, "It was not connected for too long.")
		return true
	case !online || now.Sub(r.slots.connected) < time.Duration(t.Healthy)*time.Second:
		return false
	}
	err := r.cfg.step("firmware-commit")
	if err == nil {
		err = r.putFlash(func(t *flash) {
			t.Slot, t.Step, t.Images[t.To] = t.To, stepHealthy, t.Next
			if t.Next.Floor.Compare(t.Floor) > 0 {
				t.Floor = t.Next.Floor
			}
		})
	}
	if err != nil { // it is looked at again soon
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
		return false
	}
	r.event(Event{Event: EventFirmware, Job: t.Job, Slot: t.To, Details: map[string]string{"step": stepHealthy, "version": string(t.Next.Version)}})
	nudge(r.slots.changed)
	if s := r.session.Load(); s != nil {
		nudge(s.sync) // the floor may have risen: the service counts on what is reported
	}
	return false
}

// startAnew is a reboot that no job asks for.
func (r *runner) startAnew(ctx context.Context) {
	s := r.session.Load()
	if s == nil { // nothing is connected with the image before
		return
	}
	select {
	case r.reboot <- struct{}{}:
		r.session.CompareAndSwap(s, nil)
	case <-s.conn.Done():
	case <-ctx.Done():
	}
}

// firmwareFacts is what the device reports of its firmware.
func (r *runner) firmwareFacts() map[string]any {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	t := r.slots.flash
	i := t.Images[r.slots.running]
	if t.Step == stepTrial && r.slots.running == t.To {
		i = t.Next
	}
	return map[string]any{"class": r.cfg.Firmware.Class, "hardware": r.cfg.Firmware.Hardware, "version": string(i.Version), "floor": string(t.Floor), "slot": r.slots.running}
}
