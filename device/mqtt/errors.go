package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"hallmark/internal/fault"
)

// The faults of a device's connection.
var (
	ErrConfig    = fault.Define(fault.Invalid, "mqtt-client-config", "The connection is not described completely.", "Name the address, a client identifier and TLS with a certificate.")
	ErrDial      = fault.Define(fault.Unavailable, "mqtt-client-dial", "The broker cannot be reached.", "Check the address, the network and the root certificate; then try again.")
	ErrRefused   = fault.Define(fault.Forbidden, "mqtt-client-refused", "The broker refused the connection.", "Check that the device is active, that its client identifier is the name of its thing, and its policy.")
	ErrBusy      = fault.Define(fault.Unavailable, "mqtt-client-busy", "The broker takes no connection now.", "Try again after a while.")
	ErrLost      = fault.Define(fault.Unavailable, "mqtt-client-lost", "The connection ended.", "Connect again.")
	ErrTaken     = fault.Define(fault.Conflict, "mqtt-client-taken-over", "Another connection uses the same client identifier.", "Stop the other one, or give each its own identity.")
	ErrClosed    = fault.Define(fault.Conflict, "mqtt-client-closed", "The connection was closed on this side.", "Connect again.")
	ErrTimeout   = fault.Define(fault.Unavailable, "mqtt-client-timeout", "The broker did not answer in time.", "Try again.")
	ErrProtocol  = fault.Define(fault.Unavailable, "mqtt-client-protocol", "The broker sent what MQTT does not allow.", "Check that the address is that of an MQTT broker.")
	ErrWindow    = fault.Define(fault.Exhausted, "mqtt-client-window", "Too many messages wait for their acknowledgement.", "Wait for some of them.")
	ErrPublish   = fault.Define(fault.Forbidden, "mqtt-client-publish-refused", "The broker refused the message.", "Check the device's policy for this topic.")
	ErrSubscribe = fault.Define(fault.Forbidden, "mqtt-client-subscribe-refused", "The broker refused the subscription.", "Check the device's policy for this filter.")
	ErrRejected  = fault.Define(fault.Conflict, "mqtt-client-request-rejected", "The service rejected the request.", "Do what its answer says.")
	ErrMessage   = fault.Define(fault.Invalid, "mqtt-client-message", "The message cannot be sent.", "Use a topic without wildcards, QoS 0 or 1, and a payload that the broker takes.")
)

// Reason is a short stable word for statistics: what a connection or message
// failed of. It is "" for nil.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	var f *fault.Fault
	code := ""
	if errors.As(err, &f) {
		if code = strings.TrimPrefix(f.Code, "mqtt-client-"); f.Members["reason"] != nil {
			return fmt.Sprintf("%s-%v", code, f.Members["reason"])
		}
	}
	var op *net.OpError
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var verify *tls.CertificateVerificationError
	why := ""
	switch {
	case errors.As(err, &op) && op.Op == "remote error":
		// A TLS alert of the server, "tls: bad certificate": its type is not exported.
		why = "tls-" + strings.ReplaceAll(strings.TrimPrefix(op.Err.Error(), "tls: "), " ", "-")
	case errors.As(err, &host):
		why = "tls-wrong-name"
	case errors.As(err, &unknown):
		why = "tls-unknown-root"
	case errors.As(err, &verify):
		why = "tls-server-certificate"
	case errors.As(err, &dns):
		why = "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "port-closed"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "reset"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		why = "no-local-port"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		why = "too-many-files"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &op) && op.Timeout():
		why = "timeout"
	case errors.Is(err, context.Canceled):
		why = "cancelled"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		why = "eof"
	}
	switch {
	case why == "" && code == "":
		return "other"
	case why == "", why == code:
		return code
	case code == "":
		return why
	}
	return code + "-" + why
}
