package ota_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"hallmark/device"
	"hallmark/fleet/campaign"
)

// TestFirmware_AConnectionLostBeforeTheRebootCostsNoUpdate: it is replaced while the
// image comes, or is gone when the device wants to say that it starts anew.
func TestFirmware_AConnectionLostBeforeTheRebootCostsNoUpdate(t *testing.T) {
	s := newSite(t)
	s.released("1.1", "good", nil)
	for i, at := range []string{"firmware-fetch", "firmware-installed"} {
		u := s.unit(i + 1)
		var mu sync.Mutex
		var last net.Conn
		connected := make(chan struct{}, 100)
		note := u.cfg.Event
		u.cfg.Event = func(e device.Event) {
			if note(e); e.Event == device.EventConnected {
				connected <- struct{}{}
			}
		}
		wait := func() {
			select {
			case <-connected:
			case <-time.After(time.Minute):
				t.Errorf("%s: it does not connect", at)
			}
		}
		var once sync.Once
		u.cfg.Hooks = &device.Hooks{
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil && addr == s.addr {
					mu.Lock()
					last = c
					mu.Unlock()
				}
				return c, err
			},
			Step: func(name string) error {
				if name == at {
					once.Do(func() {
						wait()
						mu.Lock()
						last.Close()
						mu.Unlock()
						if at == "firmware-fetch" {
							wait()
						}
					})
				}
				return nil
			},
		}
		u.start()
		id := "at-" + at
		s.rollout(id, "1.1", spec(u))
		s.eventually(id+" is done", func() bool { return s.member(id, u).State == campaign.Done })
		if u.boots() != "1.1" {
			t.Errorf("%s: boots %s", at, u.boots())
		}
		u.stop()
	}
}
