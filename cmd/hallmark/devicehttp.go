package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/est"
	"hallmark/broker"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/internal/fault"
	"hallmark/web"
)

// What devices do over HTTPS has its place on the device door, 9443, and none of
// its own: the certificates and their judge are the same, and a firmware names
// its port by itself. The reference serves it on 8443, and on 443 beside MQTT,
// where the client says by ALPN which of both it means; a client that does offers
// x-amzn-http-ca alone and would not connect to a door that has other names only.
// 8443 is the people's here.
const alpnHTTP = "x-amzn-http-ca"

var (
	errDeviceAsk   = fault.Define(fault.Invalid, "device-request-invalid", "The device's request cannot be used.", "Correct what the detail names.")
	errDeviceLarge = fault.Define(fault.Exhausted, "device-request-large", "The device's request is too large.", "Send less at once.")
	errDeviceMay   = fault.Define(fault.Forbidden, "device-forbidden", "The device's policies do not allow this.", "Attach a policy that allows the action in the detail.")
	errPace        = fault.Define(fault.Exhausted, "device-pace", "The device sends more than it may.", "Send less often, after the stated time.")
)

// httpsTLS is the device door for HTTPS.
func (s *Server) httpsTLS() *tls.Config {
	c := s.bootTLS()
	// net/http serves no protocol by another name than its own, so this one is
	// accepted by not negotiating at all (RFC 7301, Section 3.2).
	silent := c.Clone()
	silent.NextProtos = nil
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, alpnHTTP) {
			return silent, nil
		}
		return nil, nil
	}
	return c
}

// deviceDoor is everything on the device door: MQTT over WebSocket, whose
// connection lasts, and beside it the requests, inside the edge.
func (s *Server) deviceDoor(edge web.Edge) http.Handler {
	edge.LooseBelow = topicsPath
	requests, sockets := edge.Wrap(s.seen(s.device())), s.fleet.broker.WebSocket()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/mqtt" && r.Method == http.MethodGet {
			sockets.ServeHTTP(w, r)
			return
		}
		requests.ServeHTTP(w, r)
	})
}

// device routes first boot, provisioning by claim, and the life of a device that
// speaks HTTPS; what it does not know gets a problem document too.
func (s *Server) device() http.Handler {
	mux := s.boot.Handler(web.Fail)
	mux.Handle("/provisioning/v1/", s.fleet.claims.Handler(s.fleet.door, web.Fail))
	s.mountEST(mux, est.Certificates)
	s.mountFirmware(mux)
	d := &deviceHTTP{fleet: s.fleet, pace: s.fleet.broker.NewPacer()}
	d.mount(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { web.Fail(w, r, web.ErrRoute.New("")) })
	// A topic is not a path: the mux would clean it.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, topicsPath) {
			d.serve(topicsPath+"{topic}", d.publish)(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

const topicsPath = "/topics/"

// deviceHTTP is the data plane of devices over HTTPS. Who asks is decided by the
// judge of the MQTT door, and what it may by the same policies.
type deviceHTTP struct {
	fleet *fleetRuntime
	pace  *broker.Pacer
}

// deviceCall is one request of a device that was let in.
type deviceCall struct {
	*http.Request
	id      broker.Identity
	binding *registry.Binding
	body    []byte
}

// may asks the device's policies.
func (c *deviceCall) may(a policy.Action, resource string) error {
	if !c.binding.AllowsAction(a, resource) {
		return errDeviceMay.New("%s is not allowed on %q.", a, resource).With("action", a.String())
	}
	return nil
}

func (c *deviceCall) thing() fleet.ThingName { return fleet.ThingName(c.PathValue("thing")) }

// flag is a query parameter that is true or false.
func (c *deviceCall) flag(name string, otherwise bool) (bool, error) {
	switch c.URL.Query().Get(name) {
	case "":
		return otherwise, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errDeviceAsk.New("%s is true or false.", name)
}

// overHTTPS tells who is behind a request, and what it may. Its thing is that to
// which the certificate belongs exclusively: there is no client identifier that
// could name another (S25).
func (r *fleetRuntime) overHTTPS(ctx context.Context, state *tls.ConnectionState, from netip.Addr) (broker.Identity, *registry.Binding, error) {
	a, err := r.door.Admit(ctx, state)
	if err != nil {
		return broker.Identity{}, nil, err
	}
	if a.Claim {
		return broker.Identity{}, nil, bootstrap.ErrRole.New("A claim certificate provisions, and does nothing else.")
	}
	b, err := r.registry.Bind(ctx, registry.Connection{Tenant: a.Tenant, Certificate: a.Certificate, SourceIP: from, DomainName: state.ServerName})
	if err != nil {
		return broker.Identity{}, nil, err
	}
	return broker.Identity{Tenant: a.Tenant, Thing: b.Thing(), Certificate: a.CertificateID, Authority: a.Authority, Serial: a.Serial, NotAfter: a.NotAfter}, b, nil
}

// maxDeviceBody is a little more than the largest payload, so that one that is
// too large is told so by whoever knows the limit.
const maxDeviceBody = 192 << 10

// serve is the way of every request: who, how often, what.
func (d *deviceHTTP) serve(route string, do func(w http.ResponseWriter, c *deviceCall) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		web.SetRoute(r.Context(), route)
		if err := d.call(w, r, do); err != nil {
			failDevice(w, r, err)
		}
	}
}

func (d *deviceHTTP) call(w http.ResponseWriter, r *http.Request, do func(w http.ResponseWriter, c *deviceCall) error) error {
	id, binding, err := d.fleet.overHTTPS(r.Context(), r.TLS, web.RemoteAddr(r))
	if err != nil {
		return err
	}
	actor := access.Actor{Tenant: id.Tenant, Kind: access.KindDevice, Name: string(id.Thing)}
	web.SetActor(r.Context(), actor.String())
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDeviceBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return errDeviceLarge.New("The request has more than %d octets.", large.Limit)
		}
		return errDeviceAsk.Wrap(err, "The request broke off.")
	}
	if wait := d.pace.Take(id.Tenant+"/"+id.Certificate, len(body)); wait > 0 {
		return errPace.New("").After(wait)
	}
	return do(w, &deviceCall{r.WithContext(access.WithActor(r.Context(), actor)), id, binding, body})
}

// failDevice answers with a problem document that has besides what a client of
// the reference looks for: the header with the exception's name, message and
// traceId, and the statuses that the reference names.
func failDevice(w http.ResponseWriter, r *http.Request, err error) {
	f := *fault.From(err) // refusals are remembered, and this one gets members of its own
	f.Members = maps.Clone(f.Members)
	status, message := web.Status(&f), f.What
	if strings.HasPrefix(f.Code, "shadow-") {
		if code, text := shadow.Reject(err); code != http.StatusInternalServerError {
			status, message = code, text
		}
	} else if f.Detail != "" {
		message += " " + f.Detail
	}
	if f.Definition == errDeviceLarge || f.Definition == broker.ErrQuota && f.Detail != "" { // it says how large the payload is
		status = http.StatusRequestEntityTooLarge
	}
	if f.Kind != fault.Internal {
		f.With("message", message).With("traceId", web.RequestID(r.Context()))
	}
	if name := exceptionName(&f, status); name != "" {
		w.Header().Set("X-Amzn-ErrorType", name)
	}
	web.FailAs(w, r, &f, status)
}

// exceptionName is the class that the reference's SDKs make of an error.
func exceptionName(f *fault.Fault, status int) string {
	if f.Definition == jobs.ErrTransition {
		return "InvalidStateTransitionException"
	}
	return map[int]string{
		http.StatusBadRequest: "InvalidRequestException", http.StatusUnauthorized: "UnauthorizedException", http.StatusForbidden: "ForbiddenException", http.StatusNotFound: "ResourceNotFoundException",
		http.StatusMethodNotAllowed: "MethodNotAllowedException", http.StatusConflict: "ConflictException", http.StatusInternalServerError: "InternalFailureException",
		http.StatusRequestEntityTooLarge: "RequestEntityTooLargeException", http.StatusUnsupportedMediaType: "UnsupportedDocumentEncodingException",
		http.StatusTooManyRequests: "ThrottlingException", http.StatusServiceUnavailable: "ServiceUnavailableException",
	}[status]
}

func answerJSON(w http.ResponseWriter, body []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(body) // a device that is gone is nobody to tell
	return nil
}

// publish is POST /topics/TOPIC?qos=, the reference's HTTPS publish.
func (d *deviceHTTP) publish(w http.ResponseWriter, c *deviceCall) error {
	if c.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return web.ErrMethod.New("")
	}
	p := broker.Publication{Topic: strings.TrimPrefix(c.URL.Path, topicsPath), Payload: c.body}
	q, h := c.URL.Query(), c.Header
	switch q.Get("qos") {
	case "", "0":
	case "1":
		p.QoS = 1
	default:
		return errDeviceAsk.New("qos is 0 or 1.")
	}
	var err error
	if p.Retain, err = c.flag("retain", false); err != nil {
		return err
	}
	p.ContentType, p.ResponseTopic = q.Get("contentType"), q.Get("responseTopic")
	if text := q.Get("messageExpiry"); text != "" {
		seconds, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return errDeviceAsk.New("messageExpiry is a number of seconds.")
		}
		p.Expiry = time.Duration(seconds) * time.Second
	}
	switch format := h.Get("X-Amz-Mqtt5-Payload-Format-Indicator"); format {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		p.UTF8 = true
	default:
		return errDeviceAsk.New("The payload format indicator is UNSPECIFIED_BYTES or UTF8_DATA.")
	}
	if p.CorrelationData, err = base64.StdEncoding.DecodeString(h.Get("X-Amz-Mqtt5-Correlation-Data")); err != nil {
		return errDeviceAsk.New("The correlation data is not base64.")
	}
	if p.User, err = userProperties(h.Get("X-Amz-Mqtt5-User-Properties"), d.fleet.broker.Limits().UserProps); err != nil {
		return err
	}
	if len(p.ContentType) > 65535 || len(p.ResponseTopic) > 65535 || len(p.CorrelationData) > 65535 {
		return errDeviceAsk.New("A property has more than 65535 octets.")
	}
	if err := d.fleet.broker.PublishFor(c.Context(), &c.id, authoriser{c.binding}, p); err != nil {
		return err
	}
	b, err := json.Marshal(map[string]string{"message": "OK", "traceId": web.RequestID(c.Context())})
	if err != nil {
		return err
	}
	return answerJSON(w, b)
}

// userProperties reads a JSON list of objects in base64, in their order.
func userProperties(text string, most int) (out [][2]string, err error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errDeviceAsk.New("The user properties are not base64.")
	}
	var list []map[string]string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errDeviceAsk.New("The user properties are not a JSON list of objects with texts.")
	}
	for _, m := range list {
		if len(m) != 1 {
			return nil, errDeviceAsk.New("Each user property is an object with one member.")
		}
		for k, v := range m {
			if len(k) > 65535 || len(v) > 65535 || len(out) >= most {
				return nil, errDeviceAsk.New("There are more than %d user properties, or one is too long.", most)
			}
			out = append(out, [2]string{k, v})
		}
	}
	return out, nil
}
