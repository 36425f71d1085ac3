package broker

import (
	"encoding/binary"
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"
)

// decode turns a packet's octets into pk. The codec leaves some malformed packets
// undetected, and one of them makes it panic; those are found here first.
func decode(pk *packets.Packet, version byte, header byte, body []byte, maxUser int) error {
	pk.ProtocolVersion = version
	if err := pk.FixedHeader.Decode(header); err != nil {
		return codecError(err)
	}
	pk.FixedHeader.Remaining = len(body)
	if err := precheck(pk, version, body, maxUser); err != nil {
		return err
	}
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		err = pk.PubackDecode(body) // one form for the four
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return codecError(err)
}

// codecError gives the codec's error as an ending.
func codecError(err error) error {
	if err == nil {
		return nil
	}
	var c packets.Code
	if errors.As(err, &c) && c.Code >= 0x80 {
		return end(c.Code, ClientError, c.Reason)
	}
	return malformed("packet")
}

// precheck looks at lengths and properties.
func precheck(pk *packets.Packet, version byte, b []byte, maxUser int) error {
	short := malformed("packet too short")
	kind := pk.FixedHeader.Type
	switch kind {
	case packets.Connect:
		return precheckConnect(version, b, maxUser)
	case packets.Publish:
		if len(b) < 2 {
			return short
		}
		at := 2 + int(binary.BigEndian.Uint16(b))
		if pk.FixedHeader.Qos > 0 {
			at += 2
		}
		if at > len(b) {
			return short
		}
		if version == 5 {
			_, err := checkProperties(b[at:], maxUser)
			return err
		}
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		if len(b) < 2 || version == 4 && len(b) != 2 {
			return short
		}
		if version == 5 && len(b) > 3 {
			return wholeProperties(b[3:], maxUser)
		}
	case packets.Subscribe, packets.Unsubscribe:
		if len(b) < 2 {
			return short
		}
		b = b[2:]
		if version == 5 {
			n, err := checkProperties(b, maxUser)
			if err != nil {
				return err
			}
			b = b[n:]
		}
		return checkFilters(b, kind == packets.Subscribe, version)
	case packets.Disconnect:
		if version == 4 && len(b) != 0 {
			return malformed("DISCONNECT with a body")
		}
		if version == 5 && len(b) > 1 {
			return wholeProperties(b[1:], maxUser)
		}
	case packets.Pingreq:
		if len(b) != 0 {
			return malformed("PINGREQ with a body")
		}
	}
	return nil
}

// checkFilters walks the payload of SUBSCRIBE or UNSUBSCRIBE.
func checkFilters(b []byte, options bool, version byte) error {
	if len(b) == 0 {
		return violation("no filters") // [MQTT-3.8.3-3] [MQTT-3.10.3-2]
	}
	for len(b) > 0 {
		n := 2
		if len(b) < n {
			return malformed("filter")
		}
		n += int(binary.BigEndian.Uint16(b))
		if options {
			n++
		}
		if len(b) < n {
			return malformed("filter")
		}
		if options {
			o := b[n-1]
			// Reserved bits [MQTT-3.8.3-5], QoS 3, and retain handling 3.
			if o&3 == 3 || version == 4 && o&^3 != 0 || version == 5 && (o&0xC0 != 0 || o>>4&3 == 3) {
				return violation("subscription options")
			}
		}
		b = b[n:]
	}
	return nil
}

// precheckConnect walks a CONNECT whose protocol name and version were read.
func precheckConnect(version byte, b []byte, maxUser int) error {
	const fixed = 10 // name, version, flags, keep alive
	if len(b) < fixed {
		return malformed("CONNECT too short")
	}
	flags, at := b[7], fixed
	str := func() bool {
		if len(b) < at+2 {
			return false
		}
		at += 2 + int(binary.BigEndian.Uint16(b[at:]))
		return at <= len(b)
	}
	props := func() error {
		if version != 5 {
			return nil
		}
		n, err := checkProperties(b[at:], maxUser)
		at += n
		return err
	}
	if err := props(); err != nil {
		return err
	}
	if !str() {
		return malformed("client identifier")
	}
	if flags&0x04 != 0 {
		if err := props(); err != nil {
			return err
		}
		if !str() { // topic
			return malformed("will")
		}
		if !str() { // payload
			return malformed("will")
		}
	}
	for _, f := range []byte{0x80, 0x40} {
		if flags&f != 0 && !str() {
			return malformed("user name or password")
		}
	}
	if at != len(b) {
		return malformed("octets behind CONNECT")
	}
	return nil
}

func wholeProperties(b []byte, maxUser int) error {
	n, err := checkProperties(b, maxUser)
	if err == nil && n != len(b) {
		return malformed("octets behind properties")
	}
	return err
}

// The kinds of property values, MQTT 5, Section 2.2.2.2.
const (
	propByte = iota + 1
	propTwo
	propFour
	propVar
	propString
	propPair
)

var propertyKinds = [64]byte{
	packets.PropPayloadFormat: propByte, packets.PropMessageExpiryInterval: propFour, packets.PropContentType: propString,
	packets.PropResponseTopic: propString, packets.PropCorrelationData: propString, packets.PropSubscriptionIdentifier: propVar,
	packets.PropSessionExpiryInterval: propFour, packets.PropAssignedClientID: propString, packets.PropServerKeepAlive: propTwo,
	packets.PropAuthenticationMethod: propString, packets.PropAuthenticationData: propString, packets.PropRequestProblemInfo: propByte,
	packets.PropWillDelayInterval: propFour, packets.PropRequestResponseInfo: propByte, packets.PropResponseInfo: propString,
	packets.PropServerReference: propString, packets.PropReasonString: propString, packets.PropReceiveMaximum: propTwo,
	packets.PropTopicAliasMaximum: propTwo, packets.PropTopicAlias: propTwo, packets.PropMaximumQos: propByte,
	packets.PropRetainAvailable: propByte, packets.PropUser: propPair, packets.PropMaximumPacketSize: propFour,
	packets.PropWildcardSubAvailable: propByte, packets.PropSubIDAvailable: propByte, packets.PropSharedSubAvailable: propByte,
}

// checkProperties walks the properties at the begin of b and gives the octets
// they take: none may reach beyond their declared length, come twice, or have a
// value that the standard forbids. Whether one belongs in the packet is the
// codec's to say.
func checkProperties(b []byte, maxUser int) (int, error) {
	bad := malformed("properties")
	size, length, err := remaining(b)
	if err != nil {
		return 0, err
	}
	if size == 0 || size+length > len(b) {
		return 0, bad
	}
	total := size + length
	b = b[size:total]
	var seen uint64
	users := 0
	for len(b) > 0 {
		id := b[0]
		if id >= 64 || propertyKinds[id] == 0 {
			return 0, malformed("unknown property")
		}
		b = b[1:]
		n := 0
		switch propertyKinds[id] {
		case propByte:
			n = 1
		case propTwo:
			n = 2
		case propFour:
			n = 4
		case propVar:
			var value int
			if n, value, err = remaining(b); err != nil {
				return 0, err
			}
			if n == 0 {
				return 0, bad
			}
			if value == 0 {
				return 0, violation("subscription identifier 0")
			}
		case propPair, propString:
			for range int(propertyKinds[id]) - propString + 1 {
				if len(b) < n+2 {
					return 0, bad
				}
				n += 2 + int(binary.BigEndian.Uint16(b[n:]))
			}
		}
		if len(b) < n {
			return 0, bad
		}
		if id == packets.PropUser {
			if users++; users > maxUser {
				return 0, end(codeQuota, ClientError, "too many user properties")
			}
		} else if seen&(1<<id) != 0 {
			return 0, violation("property twice")
		}
		seen |= 1 << id
		switch id {
		case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
			if b[0] > 1 {
				return 0, violation("property value")
			}
		case packets.PropReceiveMaximum, packets.PropMaximumPacketSize:
			zero := true
			for _, o := range b[:n] {
				zero = zero && o == 0
			}
			if zero {
				return 0, violation("property value 0")
			}
		}
		b = b[n:]
	}
	return total, nil
}
