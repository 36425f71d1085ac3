// Package server is the service's end of the station protocol: what a station
// may ask on the factory listener, and the enrolment of a new one. The other
// end is hallmark/station/uplink; the words are in api/openapi.yaml.
//
// Handlers return an error, which the listener turns into a problem document.
package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"mime"
	"net/http"
	"time"

	"hallmark/access"
	"hallmark/api/factoryapi"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/provisioner"
	"hallmark/station/uplink"
)

// maxBody bounds a request; the largest holds a CSR in base64.
const maxBody = 64 << 10

// Server answers stations.
type Server struct {
	P *provisioner.Provisioner
	// Receipts gives the log's verifier key and those receipts of a station's
	// certificates that there are; nil answers with none.
	Receipts func(ctx context.Context, st access.Actor, serials []ca.Serial) (logKey string, receipts map[ca.Serial][]byte, err error)
	// FactoryURL is told to stations at enrolment; "" leaves it out.
	FactoryURL func() string
}

// Order answers GET /factory/v1/orders/{order}.
func (s *Server) Order(ctx context.Context, st access.Actor, order string) (*factoryapi.FactoryOrder, error) {
	o, err := s.P.FactoryOrder(ctx, st, order)
	if err != nil {
		return nil, err
	}
	out := &factoryapi.FactoryOrder{Id: o.ID, Product: o.Product, State: string(o.State), Quantity: o.Quantity, Used: o.Used,
		Serials: o.Serials.String(), KeyOrigin: string(o.KeyOrigin), CnIsUnit: o.CNIsUnit}
	if o.NotBefore != 0 {
		t := time.Unix(o.NotBefore, 0).UTC()
		out.NotBefore = &t
	}
	if o.NotAfter != 0 {
		t := time.Unix(o.NotAfter, 0).UTC()
		out.NotAfter = &t
	}
	return out, nil
}

// Issue answers POST /factory/v1/units/issue.
func (s *Server) Issue(w http.ResponseWriter, r *http.Request, st access.Actor) error {
	var q factoryapi.IssueRequest
	if err := read(r, &q); err != nil {
		return err
	}
	a, err := s.P.Issue(r.Context(), st, provisioner.IssueRequest{Order: q.Order, Unit: deref(q.Unit), CSR: q.Csr, Operator: deref(q.Operator), Tool: deref(q.Tool)})
	if err != nil {
		return err
	}
	return write(w, factoryapi.IssueAnswer{Order: a.Order, Unit: a.Unit, Serial: a.Serial.String(), Certificate: a.DER, Chain: a.Chain, Nonce: a.Nonce, Replayed: a.Replayed, Leaf: a.Leaf})
}

// Simple answers POST /factory/v1/orders/{order}/issue: a bare CSR in, the
// certificate in the same form out. The unit travels in a header, never in the
// URL, and this door neither reworks nor revokes (S11).
func (s *Server) Simple(w http.ResponseWriter, r *http.Request, st access.Actor, order string) error {
	body, err := body(r)
	if err != nil {
		return err
	}
	a, err := s.P.Issue(r.Context(), st, provisioner.IssueRequest{Order: order, Unit: r.Header.Get("Hallmark-Unit"), FromCN: true, CSR: body})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Hallmark-Unit", a.Unit)
	h.Set("Hallmark-Nonce", hex.EncodeToString(a.Nonce))
	if block, _ := pem.Decode(body); block != nil {
		h.Set("Content-Type", "application/x-pem-file")
		_, err = w.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.DER}))
		return err
	}
	h.Set("Content-Type", "application/pkix-cert")
	_, err = w.Write(a.DER)
	return err
}

// Commit answers POST /factory/v1/units/commit.
func (s *Server) Commit(w http.ResponseWriter, r *http.Request, st access.Actor) error {
	var q factoryapi.CommitRequest
	if err := read(r, &q); err != nil {
		return err
	}
	serial, err := ca.ParseSerial(q.Serial)
	if err != nil {
		return err
	}
	u, err := s.P.Commit(r.Context(), st, provisioner.CommitRequest{Order: q.Order, Unit: q.Unit, Serial: serial, Signature: q.Signature})
	if err != nil {
		return err
	}
	return write(w, factoryapi.CommitAnswer{Unit: u.Unit, State: u.State, Proven: u.Proven})
}

// maxReceipts is how many receipts one request may ask for.
const maxReceipts = 100

// FetchReceipts answers POST /factory/v1/receipts.
func (s *Server) FetchReceipts(w http.ResponseWriter, r *http.Request, st access.Actor) error {
	var q factoryapi.ReceiptRequest
	if err := read(r, &q); err != nil {
		return err
	}
	if len(q.Serials) == 0 || len(q.Serials) > maxReceipts {
		return ErrReceipts.New("There are %d.", len(q.Serials))
	}
	serials := make([]ca.Serial, 0, len(q.Serials))
	for _, text := range q.Serials {
		serial, err := ca.ParseSerial(text)
		if err != nil {
			return err
		}
		serials = append(serials, serial)
	}
	out := factoryapi.ReceiptAnswer{Receipts: []factoryapi.StationReceipt{}}
	if s.Receipts != nil {
		key, found, err := s.Receipts(r.Context(), st, serials)
		if err != nil {
			return err
		}
		out.LogKey = key
		for i, serial := range serials {
			if text, ok := found[serial]; ok {
				out.Receipts = append(out.Receipts, factoryapi.StationReceipt{Serial: q.Serials[i], Receipt: text})
				delete(found, serial)
			}
		}
	}
	return write(w, out)
}

// Renew answers POST /factory/v1/station/renew.
func (s *Server) Renew(w http.ResponseWriter, r *http.Request, st access.Actor) error {
	var q factoryapi.RenewRequest
	if err := read(r, &q); err != nil {
		return err
	}
	c, err := s.P.RenewStation(r.Context(), st, q.Csr)
	if err != nil {
		return err
	}
	return write(w, s.certificate(c))
}

// Enrol answers POST /enrol/v1/station.
func (s *Server) Enrol(w http.ResponseWriter, r *http.Request) error {
	var q factoryapi.EnrolRequest
	if err := read(r, &q); err != nil {
		return err
	}
	code, _, err := uplink.ParseCode(q.Code)
	if err != nil {
		return err
	}
	c, err := s.P.EnrolStation(r.Context(), q.Station, code[:], q.Csr)
	if err != nil {
		return err
	}
	return write(w, s.certificate(c))
}

func (s *Server) certificate(c provisioner.StationCertificate) factoryapi.StationCertificate {
	out := factoryapi.StationCertificate{Station: c.Station.ID, Site: c.Station.Site, Tenant: c.Station.Tenant, Certificate: c.DER, Chain: c.Chain, Roots: c.Roots}
	if s.FactoryURL != nil {
		u := s.FactoryURL()
		out.FactoryUrl = &u
	}
	return out
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func body(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return nil, csr.ErrTooLarge.Wrap(err, "The request is larger than %d octets or was cut off.", maxBody)
	}
	return b, nil
}

// ErrMediaType refuses what is not sent as JSON: another reader of the request
// would not take it for JSON either.
var ErrMediaType = fault.Define(fault.Invalid, "station-media-type", "The request is not sent as JSON.", "Send it with the content type application/json.")

// ErrReceipts refuses a request for no receipts, or for too many at once.
var ErrReceipts = fault.Define(fault.Invalid, "station-receipts", "A request asks for 1 to 100 receipts.", "Ask for the others in another request.")

func read(r *http.Request, into any) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return ErrMediaType.New("")
	}
	b, err := body(r)
	if err != nil {
		return err
	}
	return strictjson.Decode(b, into)
}

func write(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b)
	return err
}
