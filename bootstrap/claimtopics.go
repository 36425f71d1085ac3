package bootstrap

import (
	"context"
	"errors"
	"strings"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
	"hallmark/provisioner/template"
)

// The topics of fleet provisioning; an answer goes to the topic and /accepted or
// /rejected, on the asking connection alone.
const (
	topicCreateKeys = "$aws/certificates/create/"
	topicCreateCSR  = "$aws/certificates/create-from-csr/"
	topicProvision  = "$aws/provisioning-templates/+/provision/"
)

// created is the answer of both ways to a certificate.
type created struct {
	ID    string `json:"certificateId" cbor:"certificateId"`
	PEM   string `json:"certificatePem" cbor:"certificatePem"`
	Key   string `json:"privateKey,omitempty" cbor:"privateKey,omitempty"`
	Token string `json:"certificateOwnershipToken" cbor:"certificateOwnershipToken"`
}

func (n *NewDevice) wire() created {
	return created{ID: n.CertificateID, PEM: n.CertificatePEM, Key: n.PrivateKeyPEM, Token: n.Token}
}

// rejected is the answer to what was refused.
type rejected struct {
	Status  int    `json:"statusCode" cbor:"statusCode"`
	Code    string `json:"errorCode" cbor:"errorCode"`
	Message string `json:"errorMessage" cbor:"errorMessage"`
}

// Topics are the reserved topics of fleet provisioning. Whether a sender may
// publish to them is its policies' word; that it is a claim certificate is
// asked here again.
func (c *Claims) Topics() []fleet.Topic {
	var out []fleet.Topic
	for _, f := range []Format{JSON, CBOR} {
		out = append(out,
			c.topic(topicCreateKeys, f, func(ctx context.Context, who Caller, _ fields, _ string) (any, error) {
				n, err := c.CreateKeys(ctx, who)
				return n.wire(), err
			}),
			c.topic(topicCreateCSR, f, func(ctx context.Context, who Caller, in fields, _ string) (any, error) {
				return c.createFromCSR(ctx, who, in)
			}),
			c.topic(topicProvision, f, func(ctx context.Context, who Caller, in fields, name string) (any, error) {
				return c.registerThing(ctx, who, in, name)
			}))
	}
	return out
}

func (c *Claims) createFromCSR(ctx context.Context, who Caller, in fields) (any, error) {
	request, err := in.text("certificateSigningRequest")
	if err != nil {
		return nil, err
	}
	n, err := c.CreateFromCSR(ctx, who, []byte(request))
	return n.wire(), err
}

func (c *Claims) registerThing(ctx context.Context, who Caller, in fields, name string) (any, error) {
	token, err := in.text("certificateOwnershipToken")
	if err != nil {
		return nil, err
	}
	parameters, err := in.texts("parameters")
	if err != nil {
		return nil, err
	}
	return c.RegisterThing(ctx, who, name, token, parameters)
}

// topic makes one row of the table.
func (c *Claims) topic(prefix string, f Format, do func(ctx context.Context, who Caller, in fields, name string) (any, error)) fleet.Topic {
	return fleet.Topic{Filter: prefix + string(f), Handle: func(ctx context.Context, r fleet.Request) error {
		name := ""
		if prefix == topicProvision && len(r.Levels) > 2 {
			name = r.Levels[2]
		}
		var out any
		in, err := f.decode(r.Payload)
		if err == nil {
			out, err = do(ctx, Caller{Tenant: r.Tenant, Certificate: r.Certificate, Client: r.Client, Address: r.Address}, in, name)
		}
		if err == nil {
			r.Reply(r.Topic+"/accepted", f.encode(out))
			return nil
		}
		no := wireError(err)
		r.Reply(r.Topic+"/rejected", f.encode(no))
		if no.Status == 500 {
			return err
		}
		c.log.InfoContext(ctx, "provisioning request refused", "tenant", r.Tenant, "claim", r.Certificate, "client", r.Client, "topic", r.Topic, "err", err)
		return nil
	}}
}

// wireCodes are the codes of the wire; the first that fits counts. Which codes
// the reference cloud sends is known for a few only; clients branch on the topic.
var wireCodes = []struct {
	is     error
	status int
	code   string
}{
	{ErrClaimToken, 400, "InvalidCertificateOwnershipToken"},
	{ErrClaimPayload, 400, "InvalidPayload"},
	{template.ErrParameterMissing, 400, "InvalidParameters"},
	{template.ErrParameterRefused, 400, "InvalidParameters"},
	{template.ErrParameterInvalid, 400, "InvalidParameters"},
	{template.ErrPolicyValue, 400, "InvalidParameters"},
	{template.ErrFunctionFailed, 400, "InvalidParameters"},
	{template.ErrValueInvalid, 400, "InvalidParameters"},
	{template.ErrLimit, 400, "InvalidParameters"},
	{provisioner.ErrParameterReserved, 400, "InvalidParameters"},
	{provisioner.ErrPlanThing, 400, "InvalidParameters"},
	{provisioner.ErrFleetTemplate, 404, "ResourceNotFound"},
	{hook.ErrRefused, 403, "AccessDenied"},
	// Anything but the hook's yes is a no to the device.
	{hook.ErrFailed, 403, "AccessDenied"},
	{hook.ErrAddress, 403, "AccessDenied"},
	{hook.ErrAnswerInvalid, 403, "AccessDenied"},
	{ca.ErrRequesterRevoked, 403, "AccessDenied"},
	{registry.ErrThingTaken, 409, "ResourceConflict"},
}

// wireError is the answer to an error: words of ours, and never a cause.
func wireError(err error) rejected {
	f := fault.From(err)
	out := rejected{Status: 500, Code: "InternalError", Message: f.What}
	known := false
	for _, w := range wireCodes {
		if errors.Is(err, w.is) {
			out.Status, out.Code, known = w.status, w.code, true
			break
		}
	}
	if !known {
		switch f.Kind {
		case fault.Invalid:
			out.Status, out.Code = 400, "InvalidParameters"
			if strings.HasPrefix(f.Code, csrPrefix) || strings.HasPrefix(f.Code, "key-") {
				out.Code = "InvalidCertificateSigningRequest"
			}
		case fault.Unauthenticated, fault.Forbidden:
			out.Status, out.Code = 403, "AccessDenied"
		case fault.NotFound:
			out.Status, out.Code = 404, "ResourceNotFound"
		case fault.Conflict:
			out.Status, out.Code = 409, "ResourceConflict"
		case fault.Exhausted:
			out.Status, out.Code = 429, "Throttled"
		default:
			return out // our own trouble is told without its details
		}
	}
	if f.Detail != "" {
		out.Message += " " + f.Detail
	}
	if errors.Is(err, ErrClaimToken) && f.Detail == emptyToken {
		out.Message = emptyToken
	}
	return out
}

// emptyToken is the reference cloud's sentence.
const emptyToken = "Certificate ownership token cannot be empty."

// csrPrefix begins the codes of a request that cannot be used.
var csrPrefix = csr.ErrMalformed.Code[:len("csr-")]
