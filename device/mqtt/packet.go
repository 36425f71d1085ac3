package mqtt

import (
	"bytes"
	"io"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

// maxLength is the longest remaining length that four octets can say
// (MQTT 5, Section 1.5.5).
const maxLength = 268_435_455

// readPacket reads the octets of one packet: its first octet and what follows
// the length. It reads octet by octet up to there, because a TLS connection has
// a buffer already and a second one per device would be most of its memory.
func readPacket(r io.Reader, scratch *[1]byte, limit int) (first byte, body []byte, err error) {
	if _, err := io.ReadFull(r, scratch[:]); err != nil {
		return 0, nil, err
	}
	first = scratch[0]
	length := 0
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return 0, nil, ErrProtocol.New("A length has more than four octets.")
		}
		if _, err := io.ReadFull(r, scratch[:]); err != nil {
			return 0, nil, ended(err)
		}
		length |= int(scratch[0]&0x7f) << shift
		if scratch[0]&0x80 == 0 {
			break
		}
	}
	if length > limit {
		return 0, nil, ErrProtocol.New("A packet of %d bytes is larger than this device takes.", length)
	}
	if length == 0 {
		return first, nil, nil
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, ended(err)
	}
	return first, body, nil
}

// ended makes the end of the stream inside a packet a loss.
func ended(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decode reads a packet that a server may send. The result refers to body.
func decode(version, first byte, body []byte) (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, ErrProtocol.Wrap(err, "")
	}
	pk.FixedHeader.Remaining = len(body)
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connack:
		if len(body) == 2 {
			// Servers refuse a version that they do not know in their own one's form.
			pk.ProtocolVersion = 4
		}
		err = pk.ConnackDecode(body)
	case packets.Publish:
		if err = pk.PublishDecode(body); err == nil {
			// The codec takes a topic alias of a server that was offered none, and an
			// identifier 0.
			if pk.TopicName == "" || pk.Properties.TopicAlias != 0 || pk.FixedHeader.Qos > 0 && pk.PacketID == 0 || pk.FixedHeader.Qos > 1 {
				return pk, ErrProtocol.New("A PUBLISH has no topic, no identifier or QoS 2.")
			}
		}
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Pingresp:
	case packets.Disconnect:
		if version != 5 {
			return pk, ErrProtocol.New("A server of MQTT 3.1.1 sent DISCONNECT.")
		}
		err = pk.DisconnectDecode(body)
	default:
		return pk, ErrProtocol.New("A server does not send packets of type %d.", pk.FixedHeader.Type)
	}
	if err != nil {
		return pk, ErrProtocol.Wrap(err, "")
	}
	return pk, nil
}

// buffers are for encoding: lent for one write, so that idle connections have none.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encode writes a packet that a client may send.
func encode(pk *packets.Packet, b *bytes.Buffer) error {
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectEncode(b)
	case packets.Publish:
		return pk.PublishEncode(b)
	case packets.Puback:
		return pk.PubackEncode(b)
	case packets.Subscribe:
		return pk.SubscribeEncode(b)
	case packets.Unsubscribe:
		return pk.UnsubscribeEncode(b)
	case packets.Pingreq:
		return pk.PingreqEncode(b)
	case packets.Disconnect:
		return pk.DisconnectEncode(b)
	}
	return ErrProtocol.New("A client does not send packets of type %d.", pk.FixedHeader.Type)
}
