package broker

import (
	"github.com/fxamacker/cbor/v2"
)

// The frames between nodes: an octet for the kind, then CBOR. Other nodes are
// trusted to be nodes of this service, which the fabric proves, and to nothing
// else: a frame names no rights, and one that does not make sense is dropped.
const (
	kindMessage byte = iota + 1
	kindInterest
	kindSync
	kindClaim
	kindArrived
)

// messageFrame is a published message for a node, or for one session.
type messageFrame struct {
	_       struct{} `cbor:",toarray"`
	Tenant  string
	Topic   string
	Payload []byte
	Props   []byte
	Origin  string
	QoS     byte
	Retain  bool
	Expires int64
	Node    uint64 // with Number: of this publish
	Number  uint64
	Plain   bool       // for the subscriptions that are not shared
	Groups  []groupRef // for one member of each
	To      string     // for this session only, which moved
	Hops    byte       // how often a node passed it on
}

type groupRef struct {
	_      struct{} `cbor:",toarray"`
	Filter string
	Name   string
}

type messageAnswer struct {
	_        struct{} `cbor:",toarray"`
	Code     byte
	Unserved []groupRef // nobody of these groups is here any more
}

// interestFrame is what changed of the filters that a node wants messages for, and
// of what is retained. It carries states, not steps: applied twice it does no harm.
type interestFrame struct {
	_      struct{} `cbor:",toarray"`
	From   string
	Number uint64 // grows by one; the first is 1
	States []interest
	Topics []topicRef // look into the store for what is retained here
}

type interest struct {
	_      struct{} `cbor:",toarray"`
	Tenant string
	Filter string
	Level  byte
	Groups []groupState
}

type groupState struct {
	_       struct{} `cbor:",toarray"`
	Name    string
	Online  int
	Waiting int
}

type topicRef struct {
	_      struct{} `cbor:",toarray"`
	Tenant string
	Topic  string
}

type interestAnswer struct {
	_     struct{} `cbor:",toarray"`
	Known bool     // false: tell everything again, from 1
}

// syncFrame asks for an answer once everything that the other node wants is known here.
type syncFrame struct {
	_    struct{} `cbor:",toarray"`
	From string
	Name string
}

// claimFrame says that a client connects at another node.
type claimFrame struct {
	_      struct{} `cbor:",toarray"`
	From   string
	Tenant string
	Key    string
	Stamp  int64
}

type claimAnswer struct {
	_       struct{} `cbor:",toarray"`
	Refused bool     // a newer CONNECT of the client is under way
	Lasting bool     // there was a session, which is in the store now
	Seen    bool     // Life means something
	Life    int64    // version number of the client's last connection
	Now     int64    // Unix milliseconds: nothing of the old connection is later
}

// arrivedFrame says that all nodes know where a session is now.
type arrivedFrame struct {
	_      struct{} `cbor:",toarray"`
	From   string
	Tenant string
	Key    string
}

// decodeMode bounds what a frame can make a node allocate.
var decodeMode, errDecodeMode = cbor.DecOptions{MaxNestedLevels: 8, MaxArrayElements: 65536, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.DecMode()

func pack(kind byte, v any) []byte {
	b, err := cbor.Marshal(v)
	if err != nil {
		return nil // these types cannot fail
	}
	return append([]byte{kind}, b...)
}

func packAnswer(v any) []byte {
	b, _ := cbor.Marshal(v)
	return b
}

func unpack(data []byte, v any) error {
	if errDecodeMode != nil {
		return errDecodeMode
	}
	return decodeMode.Unmarshal(data, v)
}

// frame is what a message frame says of m, without its receiver.
func (m *message) frame(tenant string) messageFrame {
	return messageFrame{Tenant: tenant, Topic: m.topic, Payload: m.payload, Props: m.props, Origin: m.origin, QoS: m.qos, Retain: m.retain, Expires: m.expires, Node: m.id.node, Number: m.id.number}
}

func (f *messageFrame) message() *message {
	return &message{topic: f.Topic, payload: f.Payload, props: f.Props, origin: f.Origin, qos: f.QoS, retain: f.Retain, expires: f.Expires, id: messageID{f.Node, f.Number}}
}

// sane tells whether a message from another node is one that it could have had.
func (f *messageFrame) sane() bool {
	return f.Topic != "" && len(f.Topic) <= 65535 && !wild(f.Topic) && f.QoS <= 2
}
