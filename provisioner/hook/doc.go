// Package hook asks a webhook whether a device may be provisioned, and with
// which parameters. It is called after the ownership token was checked and
// before the template is evaluated and anything is reserved; the reservation
// checks everything again, because time passes here.
//
// Promise: a device gets in only when the right party said so about this very
// request. Every other outcome is a fault, and the caller refuses the device:
// no answer, a late one, one that cannot be read or does not say true, one
// without a good signature.
//
// # The request
//
// POST with a JSON body of claimCertificateId, certificateId, certificatePem,
// templateArn, clientId and parameters. Four headers, each once, sign it:
//
//	Hallmark-Hook-Key-Id      which secret signs
//	Hallmark-Hook-Time        seconds since 1970
//	Hallmark-Hook-Request-Id  32 hexadecimal digits, never used twice
//	Hallmark-Hook-Signature   lower-case hexadecimal HMAC-SHA256 over
//
//	  hallmark-hook-request-v1 LF key id LF time LF request id LF URL LF SHA-256 of the body in hexadecimal
//
// The URL is the configured one, as the hook's operator wrote it down.
//
// # The reply
//
// Status 200, a body of at most 64 KiB with allowProvisioning (true or false)
// and perhaps parameterOverrides (names and strings), and the header
//
//	Hallmark-Hook-Reply-Signature  lower-case hexadecimal HMAC-SHA256 over
//
//	  hallmark-hook-reply-v1 LF request id LF SHA-256 of the body in hexadecimal
//
// under any of the live secrets. [Verify] and [SignReply] are the other end.
// A hook refuses a request id that it has seen within [Window] if it does
// anything that must not happen twice.
//
// # Rotating a secret
//
// A hook has one or two secrets. Requests are signed with the first; replies
// may be signed with either. Add the new one second here and at the hook, make
// it the first, then remove the old one.
//
// # Where connections go (A58)
//
// Only to addresses in AllowAddresses, which is empty at first and then allows
// nothing. The check happens on the resolved address, at the moment of
// dialling. An address of a special block (loopback, private, link-local,
// carrier NAT, documentation, translated IPv4 and so on) must be allowed by a
// prefix inside that block: 0.0.0.0/0 does not open 127.0.0.1 or 169.254.169.254.
// There is no proxy, no redirect is followed, and plain http goes to loopback
// only.
//
// Start reading at [Caller.Call].
package hook
