package simulate

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"hallmark/device"
	"hallmark/device/mqtt"
)

// simulated is one device: a goroutine that keeps it connected, the one that its
// connection reads with, and a timer for what it sends.
type simulated struct {
	s     *simulation
	thing string
	tls   *tls.Config // with its session ticket, over all its connections
	agent *agent      // nil: it keeps its certificate

	mu    sync.Mutex
	conn  *mqtt.Conn // nil while it has none
	storm bool       // the connection ended because we dropped it
	count uint64
}

func newSimulated(s *simulation, d Device) *simulated {
	if s.agents != nil {
		out := &simulated{s: s, thing: d.Thing}
		out.agent = &agent{d: out, dir: d.Dir, streams: map[net.Conn]bool{}, waiting: map[uint64]*mqtt.Conn{}}
		if s.agents.Fault != nil {
			out.agent.faults = slices.Clone(s.agents.Fault(len(s.devices)))
		}
		return out
	}
	c := mqtt.TLS(d.Certificate, s.cfg.Roots, s.cfg.ServerName)
	return &simulated{s: s, thing: d.Thing, tls: c}
}

// begin lets the device live until the simulation's context ends.
func (d *simulated) begin() {
	if d.agent != nil {
		d.s.wg.Go(d.agent.live)
		return
	}
	d.s.wg.Go(d.live)
}

func (d *simulated) live() {
	ctx := d.s.ctx
	stop := []func(){}
	if d.s.cfg.Rate > 0 {
		stop = append(stop, every(time.Duration(float64(time.Second)/d.s.cfg.Rate), d.publish))
	}
	if d.s.cfg.Shadow > 0 {
		stop = append(stop, every(d.s.cfg.Shadow, d.shadow))
	}
	defer func() {
		for _, f := range stop {
			f()
		}
	}()
	failures := 0
	for ctx.Err() == nil {
		conn, err := d.connect()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failures++
			d.s.failures.Add(1)
			d.s.failed(err)
			wait(ctx, d.s.cfg.Backoff.Wait(failures))
			continue
		}
		failures = 0
		d.hold(conn)
		d.s.change(1)
		select {
		case <-conn.Done():
		case <-ctx.Done():
		}
		storm := d.release()
		if ctx.Err() != nil {
			conn.Close()
			return
		}
		if storm { // at once: that is the test
			continue
		}
		d.s.lost.Add(1)
		d.s.failed(conn.Err())
		wait(ctx, d.s.cfg.Backoff.Wait(1))
	}
}

// connect takes one of the places for connecting.
func (d *simulated) connect() (*mqtt.Conn, error) {
	ctx := d.s.ctx
	select {
	case d.s.dials <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-d.s.dials }()
	start := time.Now()
	c, err := mqtt.Dial(ctx, mqtt.Config{Addr: d.s.cfg.Endpoint, TLS: d.tls, ClientID: d.thing, Version: d.s.cfg.Version, KeepAlive: d.s.cfg.KeepAlive, Timeout: d.s.cfg.Timeout})
	if err != nil {
		return nil, err
	}
	d.s.up(time.Since(start))
	d.s.connects.Add(1)
	if c.Resumed {
		d.s.resumed.Add(1)
	}
	return c, nil
}

func (d *simulated) hold(c *mqtt.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = c
}

// release notes that the connection is gone, if drop did not, and tells whether
// that was drop.
func (d *simulated) release() (storm bool) {
	d.mu.Lock()
	storm, d.conn, d.storm = d.storm, nil, false
	d.mu.Unlock()
	if !storm {
		d.s.change(-1)
	}
	return storm
}

// drop ends the connection as a power cut does. It is not counted any more when
// drop returns, so that whoever waits for the fleet waits for its return.
func (d *simulated) drop() {
	d.mu.Lock()
	c := d.conn
	if c != nil {
		d.conn, d.storm = nil, true
	}
	d.mu.Unlock()
	if c != nil {
		d.s.change(-1)
		c.Abort()
	}
}

// publish sends one message of telemetry.
func (d *simulated) publish() {
	d.mu.Lock()
	c := d.conn
	d.count++
	n := d.count
	d.mu.Unlock()
	if c == nil {
		return
	}
	start := time.Now()
	payload := make([]byte, 0, d.s.cfg.Payload+64)
	payload = fmt.Appendf(payload, `{"thing":%q,"n":%d,"time":%d,"pad":"`, d.thing, n, start.UnixMilli())
	for len(payload) < d.s.cfg.Payload-2 {
		payload = append(payload, '.')
	}
	payload = append(payload, `"}`...)
	d.send(c, mqtt.Message{Topic: "dt/" + d.thing + "/telemetry", Payload: payload, QoS: d.s.cfg.QoS}, start, &d.s.published)
}

// shadow reports the device's state.
func (d *simulated) shadow() {
	d.mu.Lock()
	c := d.conn
	n := d.count
	d.mu.Unlock()
	if c == nil {
		return
	}
	payload := fmt.Appendf(nil, `{"state":{"reported":{"simulated":{"messages":%d}}}}`, n)
	d.send(c, mqtt.Message{Topic: "$aws/things/" + d.thing + "/shadow/update", Payload: payload, QoS: 1}, time.Now(), &d.s.shadows)
}

// counter is what a message that arrived is added to.
type counter interface{ Add(uint64) uint64 }

func (d *simulated) send(c *mqtt.Conn, m mqtt.Message, start time.Time, sent counter) {
	err := c.Send(m, func(err error) {
		if err != nil {
			if c.Err() == nil { // else the connection's end is counted once
				d.s.failed(err)
			}
			return
		}
		sent.Add(1)
		if m.QoS > 0 {
			d.s.acked(time.Since(start))
		}
	})
	if err != nil && c.Err() == nil {
		d.s.skipped.Add(1)
		d.s.failed(err)
	}
}

// every calls f at a steady rate from a random moment on, so that devices that
// began together do not send together. A call that is late does not shift the
// next ones; those that were missed are left out.
func every(period time.Duration, f func()) (stop func()) {
	var mu sync.Mutex
	stopped := false
	next := time.Now().Add(device.Random(period))
	var t *time.Timer
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(time.Until(next), func() {
		f()
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		now := time.Now()
		if next = next.Add(period); next.Before(now) {
			next = now.Add(period - now.Sub(next)%period)
		}
		t.Reset(time.Until(next))
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		t.Stop()
	}
}
