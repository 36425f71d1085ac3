package broker

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// message is what was published, shared by all who get it and never changed.
type message struct {
	topic   string
	payload []byte
	props   []byte // MQTT 5 properties that are passed on, encoded once
	origin  string // session key of the publisher; empty for the service
	expires int64  // Unix milliseconds; 0 = never
	qos     byte
	retain  bool
	id      messageID // set only if the message goes to other nodes too
}

// messageID tells the publishes of a cluster apart.
type messageID struct{ node, number uint64 }

func (m *message) expired(now time.Time) bool { return m.expires != 0 && now.UnixMilli() >= m.expires }

// size is about what a message costs in memory and on the wire.
func (m *message) size() int { return len(m.topic) + len(m.payload) + len(m.props) + overhead }

func (m *message) stored() Message {
	s := Message{Topic: m.topic, Payload: m.payload, Properties: m.props, Publisher: m.origin, QoS: m.qos}
	if m.expires != 0 {
		s.ExpiresAt = time.UnixMilli(m.expires)
	}
	return s
}

func fromStored(s Message) *message {
	m := &message{topic: s.Topic, payload: s.Payload, props: s.Properties, origin: s.Publisher, qos: s.QoS}
	if !s.ExpiresAt.IsZero() {
		m.expires = s.ExpiresAt.UnixMilli()
	}
	return m
}

// passedOn encodes the properties of a PUBLISH that its receivers get unchanged,
// in their order ([MQTT-3.3.2-17] and others).
func passedOn(p *packets.Properties) []byte {
	if !p.PayloadFormatFlag && p.ContentType == "" && p.ResponseTopic == "" && len(p.CorrelationData) == 0 && len(p.User) == 0 {
		return nil
	}
	var b []byte
	if p.PayloadFormatFlag {
		b = append(b, packets.PropPayloadFormat, p.PayloadFormat)
	}
	if p.ContentType != "" {
		b = appendString(append(b, packets.PropContentType), p.ContentType)
	}
	if p.ResponseTopic != "" {
		b = appendString(append(b, packets.PropResponseTopic), p.ResponseTopic)
	}
	if len(p.CorrelationData) > 0 {
		b = binary.BigEndian.AppendUint16(append(b, packets.PropCorrelationData), uint16(len(p.CorrelationData)))
		b = append(b, p.CorrelationData...)
	}
	for _, u := range p.User {
		b = appendString(appendString(append(b, packets.PropUser), u.Key), u.Val)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendVar(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func varSize(n int) int {
	size := 1
	for n >= 0x80 {
		n >>= 7
		size++
	}
	return size
}

// item is one packet that waits to be written: a message, or octets.
type item struct {
	msg    *message
	ids    []int  // subscription identifiers
	octets []byte // of anything but PUBLISH, unless it is a short answer
	pid    uint16
	kind   byte // of a short answer: packets.Puback and so on; 0 otherwise
	code   byte // of a short answer
	qos    byte
	dup    bool
	retain bool
	last   bool // the connection is closed behind it
}

func (it *item) size() int {
	if it.msg != nil {
		return it.msg.size()
	}
	return len(it.octets) + 16
}

// wireSize is the length of the PUBLISH packet, at most.
func wireSize(m *message, ids []int, version byte) int {
	n := 2 + len(m.topic) + 2 + len(m.payload)
	if version == 5 {
		n += len(m.props) + 5 + 3 + 4 + 5*len(ids)
	}
	return n + 5
}

// appendPublish encodes a message for one receiver. alias 0 means none; topic is
// empty if the alias says it.
func appendPublish(b []byte, version byte, it *item, topic string, alias uint16, now time.Time) []byte {
	m := it.msg
	first := packets.Publish<<4 | it.qos<<1
	if it.dup {
		first |= 8
	}
	if it.retain {
		first |= 1
	}
	length := 2 + len(topic) + len(m.payload)
	if it.qos > 0 {
		length += 2
	}
	props := 0
	if version == 5 {
		props = len(m.props)
		if m.expires != 0 {
			props += 5
		}
		if alias != 0 {
			props += 3
		}
		for _, id := range it.ids {
			props += 1 + varSize(id)
		}
		length += varSize(props) + props
	}
	b = appendVar(append(b, first), length)
	b = appendString(b, topic)
	if it.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, it.pid)
	}
	if version == 5 {
		b = appendVar(b, props)
		if m.expires != 0 {
			// What is left of the interval [MQTT-3.3.2-6].
			left := max((m.expires-now.UnixMilli()+999)/1000, 1)
			b = binary.BigEndian.AppendUint32(append(b, packets.PropMessageExpiryInterval), uint32(left))
		}
		if alias != 0 {
			b = binary.BigEndian.AppendUint16(append(b, packets.PropTopicAlias), alias)
		}
		for _, id := range it.ids {
			b = appendVar(append(b, packets.PropSubscriptionIdentifier), id)
		}
		b = append(b, m.props...)
	}
	return append(b, m.payload...)
}

// appendShort encodes PUBACK, PUBREC, PUBREL and PUBCOMP.
func appendShort(b []byte, version byte, kind byte, pid uint16, code byte) []byte {
	first := kind << 4
	if kind == packets.Pubrel {
		first |= 2
	}
	if version == 5 && code != codeSuccess {
		return append(binary.BigEndian.AppendUint16(append(b, first, 3), pid), code)
	}
	return binary.BigEndian.AppendUint16(append(b, first, 2), pid)
}

var pingresp = []byte{packets.Pingresp << 4, 0}

// encode gives the octets of a packet that is sent rarely.
func encode(pk *packets.Packet) []byte {
	var buf bytes.Buffer
	switch pk.FixedHeader.Type {
	case packets.Connack:
		pk.ConnackEncode(&buf)
	case packets.Suback:
		pk.SubackEncode(&buf)
	case packets.Unsuback:
		pk.UnsubackEncode(&buf)
	case packets.Disconnect:
		pk.DisconnectEncode(&buf)
	}
	return buf.Bytes()
}

func disconnect5(code byte) []byte {
	return encode(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ProtocolVersion: 5, ReasonCode: code})
}
