package broker

import (
	"fmt"

	"hallmark/internal/fault"
)

// The faults of the broker.
var (
	ErrConfig     = fault.Define(fault.Invalid, "broker-config-invalid", "The broker cannot run with these settings.", "Correct the named setting.")
	ErrClosed     = fault.Define(fault.Unavailable, "broker-closed", "The broker is shutting down.", "Try again on another node, or after the restart.")
	ErrTopic      = fault.Define(fault.Invalid, "broker-topic-invalid", "This topic cannot be published to.", "Use a topic without wildcards, within the length limit, that does not begin with $ unless it is one of the service's own.")
	ErrForbidden  = fault.Define(fault.Forbidden, "broker-forbidden", "The device's policies do not allow this.", "Attach a policy that allows iot:Publish, and iot:RetainPublish for a retained message, on the topic.")
	ErrNotDurable = fault.Define(fault.Unavailable, "broker-not-durable", "The message could not be written down, so it was not accepted.", "Check the database, then send it again.")
	ErrFenced     = fault.Define(fault.Unavailable, "broker-node-fenced", "This node was taken for dead, and its sessions were given to another.", "Nothing has to be done: it joins again by itself. Look for what held it up: a slow database, a machine that slept.")
	ErrElsewhere  = fault.Define(fault.Unavailable, "broker-session-elsewhere", "The session is with a node that does not answer.", "Try again in some seconds: when that node is known to be dead, its sessions are given to another.")
	ErrQuota      = fault.Define(fault.Exhausted, "broker-quota", "A limit of the message service is reached.", "Wait until messages were fetched, or raise the limit.")
)

// Reason is why a connection ended, in the words of the lifecycle events.
type Reason string

// The reasons.
const (
	AuthError         Reason = "AUTH_ERROR"
	ClientDisconnect  Reason = "CLIENT_INITIATED_DISCONNECT"
	ClientError       Reason = "CLIENT_ERROR"
	ConnectionLost    Reason = "CONNECTION_LOST"
	DuplicateClient   Reason = "DUPLICATE_CLIENTID"
	ForbiddenAccess   Reason = "FORBIDDEN_ACCESS"
	KeepAliveTimeout  Reason = "MQTT_KEEP_ALIVE_TIMEOUT"
	ServerError       Reason = "SERVER_ERROR"
	ServerDisconnect  Reason = "SERVER_INITIATED_DISCONNECT"
	APIDisconnect     Reason = "API_INITIATED_DISCONNECT"
	Throttled         Reason = "THROTTLED"
	AuthorizationFail Reason = "AUTHORIZATION_FAILED" // why a CONNECT failed
)

// The reason codes of MQTT 5 that are sent, MQTT 5, Section 2.4.
const (
	codeSuccess             byte = 0x00
	codeNoSubscribers       byte = 0x10
	codeNoSubscription      byte = 0x11
	codeUnspecified         byte = 0x80
	codeMalformed           byte = 0x81
	codeProtocol            byte = 0x82
	codeVersion             byte = 0x84
	codeClientID            byte = 0x85
	codeNotAuthorized       byte = 0x87
	codeUnavailable         byte = 0x88
	codeShuttingDown        byte = 0x8B
	codeAuthMethod          byte = 0x8C
	codeKeepAlive           byte = 0x8D
	codeTakenOver           byte = 0x8E
	codeFilterInvalid       byte = 0x8F
	codeTopicInvalid        byte = 0x90
	codeIDNotFound          byte = 0x92
	codeReceiveMaximum      byte = 0x93
	codeAliasInvalid        byte = 0x94
	codeTooLarge            byte = 0x95
	codeQuota               byte = 0x97
	codeAdministrative      byte = 0x98
	codePayloadFormat       byte = 0x99
	codeQoS                 byte = 0x9B
	codeRate                byte = 0x9F
	codeNoSubscriptionIDs   byte = 0xA1
	refused3Version         byte = 1 // MQTT 3.1.1, Section 3.2.2.3
	refused3ClientID        byte = 2
	refused3Unavailable     byte = 3
	refused3Unauthorized    byte = 5
	refused3SubscribeFailed byte = 0x80
)

// ending is why a connection has to end: the code for MQTT 5, the reason for
// the event.
type ending struct {
	code   byte
	reason Reason
	cause  string
}

func (e *ending) Error() string { return fmt.Sprintf("%s (0x%02X): %s", e.reason, e.code, e.cause) }

func end(code byte, reason Reason, cause string) *ending { return &ending{code, reason, cause} }

// malformed and violation are the two most frequent endings.
func malformed(cause string) *ending { return end(codeMalformed, ClientError, cause) }
func violation(cause string) *ending { return end(codeProtocol, ClientError, cause) }
