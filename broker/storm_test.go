package broker

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// TestTakeover_Storm has many connections fight for one session while messages
// for it come in: nothing hangs, nothing acknowledged is lost, and one is left.
func TestTakeover_Storm(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		first, _ := f.connect(t, "lamp1", v, persistent)
		first.sub("cmd/lamp1", 1)
		got := map[string]bool{}
		var mu sync.Mutex
		note := func(p *pkt) {
			mu.Lock()
			got[string(p.Payload)] = true
			mu.Unlock()
		}
		var publishers, fighters sync.WaitGroup
		const each = 60
		for i := range 3 {
			c, _ := f.connect(t, fmt.Sprint("pub", i), v, nil)
			publishers.Go(func() {
				for n := range each {
					c.send(publishPacket("cmd/lamp1", fmt.Sprint(i, "-", n), 1, uint16(n+1)))
					if p, err := c.read(20 * time.Second); err != nil || p.FixedHeader.Type != packets.Puback {
						t.Errorf("publisher %d: %v", i, err)
						return
					}
				}
			})
		}
		for range 8 {
			fighters.Go(func() {
				for range 4 {
					c := f.dial(t, "lamp1", v)
					p := connectPacket(v, "lamp1")
					persistent(p)
					c.send(p)
					for {
						p, err := c.read(20 * time.Second)
						if err != nil || p.FixedHeader.Type == packets.Disconnect {
							break
						}
						if p.FixedHeader.Type == packets.Publish {
							note(p)
							c.nc.Write([]byte{packets.Puback << 4, 2, byte(p.PacketID >> 8), byte(p.PacketID)}) // it may be closed by now
						}
						mu.Lock()
						enough := len(got) > 20
						mu.Unlock()
						if enough {
							c.nc.Close()
							break
						}
					}
				}
			})
		}
		publishers.Wait()
		fighters.Wait()
		last, ack := f.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Error("no session present")
		}
		deadline := time.Now().Add(20 * time.Second)
		for len(got) < 3*each && time.Now().Before(deadline) {
			p, err := last.read(5 * time.Second)
			if err != nil {
				break
			}
			note(p)
			last.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
		}
		if len(got) != 3*each {
			t.Errorf("%d of %d messages", len(got), 3*each)
		}
		eventually(t, "one connection of the session", func() bool { return f.Stats().Connections == 4 })
		if s := f.Stats(); s.Sessions != 4 {
			t.Errorf("%d sessions", s.Sessions)
		}
	})
}
