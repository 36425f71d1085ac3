package broker

import (
	"io"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// benchBroker is a broker with one subscriber to dt/#, whose octets nobody looks at.
func benchBroker(b *testing.B, qos byte, subscribers int) (*bench, *realm) {
	f := open(b, func(c *Config) { c.Limits.OutBytes = 64 << 20 })
	for i := range subscribers {
		c, _ := f.connect(b, "lamp"+string(rune('a'+i)), 5, nil)
		c.sub("dt/#", qos)
		go io.Copy(io.Discard, c.nc)
	}
	return f, f.realm("acme")
}

// BenchmarkPublish_Nobody is the least that a message costs.
func BenchmarkPublish_Nobody(b *testing.B) {
	f, r := benchBroker(b, 0, 0)
	var k kicks
	for b.Loop() {
		f.publish(r, &message{topic: "dt/lamp/temperature", payload: []byte("21.5"), qos: 1}, nil, &k, completion(nil))
	}
}

// BenchmarkPublish_QoS0 hands messages to one connection that is read as fast as they come.
func BenchmarkPublish_QoS0(b *testing.B) {
	f, r := benchBroker(b, 0, 1)
	payload := make([]byte, 256)
	var k kicks
	n := 0
	for b.Loop() {
		f.publish(r, &message{topic: "dt/lamp/temperature", payload: payload}, nil, &k, completion(nil))
		if n++; n%32 == 0 {
			k.flush()
		}
	}
	k.flush()
}

// BenchmarkPublish_QoS1EndToEnd has a client publish in windows of 50 and wait for the PUBACKs.
func BenchmarkPublish_QoS1EndToEnd(b *testing.B) {
	f, _ := benchBroker(b, 0, 1)
	c, _ := f.connect(b, "lampz", 5, nil)
	const window = 50
	sent := 0
	for b.Loop() {
		if sent%window == 0 {
			for i := range window {
				c.send(publishPacket("dt/lampz/t", "21.5", 1, uint16(i+1)))
			}
			for range window {
				if p := c.recv(packets.Puback); p.ReasonCode != 0 {
					b.Fatal(p.ReasonCode)
				}
			}
		}
		sent++
	}
}
