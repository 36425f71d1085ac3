package broker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
)

// TestRestart_GoesOnWhereItStopped leaves a broker as a crash would, and starts
// another on the same store.
func TestRestart_GoesOnWhereItStopped(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		store := NewMemory()
		change := func(c *Config) { c.Store, c.Limits.RestartGrace, c.Limits.QoS2 = store, time.Second, true }
		f := open(t, change)
		lamp, _ := f.connect(t, "lamp1", v, persistent)
		lamp.sub("cmd/#", 2)
		dead, _ := f.connect(t, "lamp3", v, func(p *pkt) { persistent(p); withWill("will/lamp3", "gone")(p) })
		dead.quiet()
		back, _ := f.connect(t, "lamp4", v, func(p *pkt) { persistent(p); withWill("will/lamp4", "gone")(p) })
		back.quiet()
		o, _ := f.connect(t, "lamp2", v, nil)
		o.pub("cmd/a", "1", 1)
		o.send(publishPacket("cmd/b", "2", 2, 5))
		o.recv(packets.Pubrec)
		o.pub("cmd/c", "3", 1)
		p := publishPacket("kept", "x", 1, 6)
		p.FixedHeader.Retain = true
		o.publish(p)
		one, two := lamp.recv(packets.Publish), lamp.recv(packets.Publish)
		lamp.recv(packets.Publish)
		lamp.send(&pkt{FixedHeader: head(packets.Pubrec), PacketID: two.PacketID})
		lamp.recv(packets.Pubrel)

		g := open(t, change)
		watch, _ := g.connect(t, "watch", v, nil)
		watch.sub("will/+", 1)
		watch.sub("kept", 1)
		watch.message("kept", "x")
		g.connect(t, "lamp4", v, persistent)
		lamp, ack := g.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Error("no session present")
		}
		// [MQTT-4.4.0-1]: the same identifiers, and DUP; the released message is not sent
		// again, only its PUBREL.
		if p := lamp.message("cmd/a", "1"); !p.FixedHeader.Dup || p.PacketID != one.PacketID {
			t.Errorf("DUP %v, identifier %d, want %d", p.FixedHeader.Dup, p.PacketID, one.PacketID)
		}
		if p := lamp.recv(packets.Pubrel); p.PacketID != two.PacketID {
			t.Errorf("PUBREL %d, want %d", p.PacketID, two.PacketID)
		}
		lamp.message("cmd/c", "3")
		lamp.quiet()
		g.say(t, "acme", "cmd/d", "4", 1)
		if p := lamp.message("cmd/d", "4"); p.FixedHeader.Dup {
			t.Error("DUP on a new message")
		}
		// Who does not come back gets its will; who does, does not.
		watch.message("will/lamp3", "gone")
		watch.quiet()
	})
}

// failing is a store that can be out of order.
type failing struct {
	*Memory
	broken atomic.Bool
}

func (f *failing) Apply(ctx context.Context, c []Change) error {
	if f.broken.Load() {
		return errors.New("disk is gone")
	}
	return f.Memory.Apply(ctx, c)
}

func TestStore_FailureIsNeverAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		store := &failing{Memory: NewMemory()}
		f := open(t, func(c *Config) { c.Store = store })
		away, _ := f.connect(t, "lamp1", v, persistent)
		away.sub("cmd/lamp1", 1)
		away.bye()
		f.event("disconnected", "lamp1")
		o, _ := f.connect(t, "lamp2", v, nil)
		store.broken.Store(true)
		o.send(publishPacket("cmd/lamp1", "lost", 1, 3))
		if v == 4 {
			o.closed()
			if e := f.event("disconnected", "lamp2"); e.Reason != ServerError {
				t.Errorf("reason %s", e.Reason)
			}
		} else if a := o.recv(packets.Puback); a.ReasonCode != 0x80 {
			t.Errorf("PUBACK 0x%02X", a.ReasonCode)
		}
		if err := f.Publish(t.Context(), fleet.Message{Tenant: "acme", Topic: "cmd/lamp1", QoS: 1}); !errors.Is(err, ErrNotDurable) {
			t.Errorf("got %v", err)
		}
		// A persistent session cannot begin; a clean one needs no store.
		c := f.dial(t, "lamp5", v)
		p := connectPacket(v, "lamp5")
		persistent(p)
		c.send(p)
		if a := c.recv(packets.Connack); a.ReasonCode != map[byte]byte{4: 3, 5: 0x88}[v] {
			t.Errorf("CONNACK 0x%02X", a.ReasonCode)
		}
		c, _ = f.connect(t, "lamp6", v, nil)
		c.sub("x", 1)
		f.say(t, "acme", "x", "y", 1)
		c.message("x", "y")

		store.broken.Store(false)
		o, _ = f.connect(t, "lamp2", v, nil)
		o.pub("cmd/lamp1", "kept", 1)
		away, ack := f.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Error("no session present")
		}
		away.message("cmd/lamp1", "kept")
		away.quiet()
	})
}

func TestCleanSession_TouchesNoStore(t *testing.T) {
	store := &failing{Memory: NewMemory()}
	store.broken.Store(true)
	f := open(t, func(c *Config) { c.Store = store })
	c, _ := f.connect(t, "lamp1", 5, withWill("will", "x"))
	c.sub("a", 1)
	c.pub("b", "x", 1)
	f.say(t, "acme", "a", "y", 1)
	c.message("a", "y")
	c.nc.Close()
	f.event("disconnected", "lamp1")
	if n := f.Stats().StoreFailures; n != 0 {
		t.Errorf("the store was asked %d times", n)
	}
}
