package mqtt

import (
	"context"
	"fmt"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Send publishes without waiting. For QoS 1, done is called once, with the
// acknowledgement or with what came in between; for QoS 0, after the message
// was written. It is called on the reading goroutine or on this one and must
// not block; it may be nil. When Send itself returns an error, done is not called.
func (c *Conn) Send(m Message, done func(error)) error {
	if m.QoS > 0 {
		select {
		case c.slots <- struct{}{}:
		default:
			return ErrWindow.New("")
		}
	}
	return c.send(m, done)
}

// Publish publishes and waits, for QoS 1 until the server took the message.
func (c *Conn) Publish(ctx context.Context, m Message) error {
	if m.QoS == 0 {
		return c.send(m, nil)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ErrTimeout.Wrap(ctx.Err(), "")
	case <-c.done:
		return c.Err()
	}
	answered := make(chan error, 1)
	if err := c.send(m, func(err error) { answered <- err }); err != nil {
		return err
	}
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ErrTimeout.Wrap(ctx.Err(), "") // the slot stays taken until the answer or the end
	}
}

// send is the rest of both; a message of QoS 1 holds a slot.
func (c *Conn) send(m Message, done func(error)) error {
	release := func() {
		if m.QoS > 0 {
			<-c.slots
		}
	}
	if m.Topic == "" || strings.ContainsAny(m.Topic, "+#\x00") || m.QoS > 1 || len(m.Topic) > 65535 || len(m.Payload) > maxLength-65540 {
		release()
		return ErrMessage.New("")
	}
	pk := &packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: m.QoS, Retain: m.Retain}, TopicName: m.Topic, Payload: m.Payload}
	if m.QoS == 0 {
		if err := c.write(pk); err != nil {
			return err
		}
		if done != nil {
			done(nil)
		}
		return nil
	}
	id, err := c.expect(packets.Puback, func(codes []byte, err error) {
		release()
		if err == nil && codes[0] >= 0x80 {
			err = ErrPublish.New("Code 0x%02x for %s.", codes[0], printable(m.Topic)).With("reason", fmt.Sprintf("0x%02x", codes[0]))
		}
		if done != nil {
			done(err)
		}
	})
	if err != nil {
		release()
		return err
	}
	pk.PacketID = id
	return c.issue(pk)
}

// Subscription is a filter with the highest QoS of its messages.
type Subscription struct {
	Filter string
	QoS    byte
}

// Subscribe asks for filters in one packet and waits. The error names those that
// were refused; the others are in force.
func (c *Conn) Subscribe(ctx context.Context, subs ...Subscription) error {
	pk := &packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}}
	for _, s := range subs {
		if s.Filter == "" || s.QoS > 1 || len(s.Filter) > 65535 {
			return ErrMessage.New("A filter is empty or of QoS 2.")
		}
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: s.Filter, Qos: s.QoS})
	}
	if len(subs) == 0 {
		return nil
	}
	codes, err := c.ask(ctx, pk, packets.Suback)
	if err != nil {
		return err
	}
	if len(codes) != len(subs) {
		err := ErrProtocol.New("A SUBACK has %d codes for %d filters.", len(codes), len(subs))
		c.fail(err)
		return err
	}
	var refused []string
	reason := ""
	for i, code := range codes {
		if code >= 0x80 {
			refused, reason = append(refused, printable(subs[i].Filter)), fmt.Sprintf("0x%02x", code)
		}
	}
	if refused != nil {
		return ErrSubscribe.New("Refused: %s.", strings.Join(refused, ", ")).With("reason", reason).With("filters", refused)
	}
	return nil
}

// Unsubscribe gives filters back and waits.
func (c *Conn) Unsubscribe(ctx context.Context, filters ...string) error {
	if len(filters) == 0 {
		return nil
	}
	pk := &packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	_, err := c.ask(ctx, pk, packets.Unsuback)
	return err
}

// ask sends a packet and waits for its answer.
func (c *Conn) ask(ctx context.Context, pk *packets.Packet, kind byte) ([]byte, error) {
	type answer struct {
		codes []byte
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answered := make(chan answer, 1)
	id, err := c.expect(kind, func(codes []byte, err error) { answered <- answer{codes, err} })
	if err != nil {
		return nil, err
	}
	pk.PacketID = id
	if err := c.issue(pk); err != nil {
		return nil, err
	}
	select {
	case a := <-answered:
		return a.codes, a.err
	case <-ctx.Done():
		return nil, ErrTimeout.Wrap(ctx.Err(), "")
	}
}

// expect takes a free packet identifier ([MQTT-2.2.1-3]) for an answer.
func (c *Conn) expect(kind byte, done func([]byte, error)) (uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	for range 65535 {
		c.last++
		if _, used := c.pending[c.last]; c.last == 0 || used {
			continue
		}
		if c.pending == nil {
			c.pending = map[uint16]pending{}
		}
		c.pending[c.last] = pending{kind, done}
		return c.last, nil
	}
	return 0, ErrWindow.New("")
}

// issue writes a packet that expects an answer. An error of the connection has
// reached the waiting function already, so it is told there alone; one of the
// packet is told here alone.
func (c *Conn) issue(pk *packets.Packet) error {
	err := c.write(pk)
	if err == nil {
		return nil
	}
	c.mu.Lock()
	p, mine := c.pending[pk.PacketID]
	delete(c.pending, pk.PacketID)
	c.mu.Unlock()
	if !mine {
		return nil
	}
	if pk.FixedHeader.Type == packets.Publish && p.kind == packets.Puback {
		<-c.slots
	}
	return err
}
