package bootstrap

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/provisioner"
)

// BulkPlanner plans one line; [provisioner.Planner] does.
type BulkPlanner interface {
	PlanBulk(ctx context.Context, s access.Scope, template string, parameters map[string]string) (provisioner.Plan, error)
}

// BulkConfig makes Bulk.
type BulkConfig struct {
	BYOC     *BYOC
	Issuer   Issuer
	Planner  BulkPlanner
	Registry *registry.Registry
	Grants   Grants // for its transactions
	// Organization stands in the subject of the certificates; may be empty.
	Organization string
	Log          *slog.Logger
	Now          func() time.Time
}

// Bulk registers devices from a file: a line, a set of parameters, a device.
type Bulk struct {
	cfg BulkConfig
	log *slog.Logger
	now func() time.Time
}

// NewBulk makes Bulk.
func NewBulk(cfg BulkConfig) *Bulk {
	b := &Bulk{cfg: cfg, log: cfg.Log, now: cfg.Now}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = time.Now
	}
	return b
}

// BulkTask is one file to register.
type BulkTask struct {
	Template string    // of the kind bulk
	Lines    io.Reader // one JSON object with text values a line; the file from its beginning
	Results  io.Writer // one [BulkResult] a line, in the order of the lines; opened to append when resuming
	// Done is how many lines were done by an earlier run: the number of complete
	// lines in its results (see [CountResults]). They are skipped.
	Done int64
	// Progress, if there is one, is called after each line.
	Progress func(BulkProgress)
}

// BulkProgress says how far a task is.
type BulkProgress struct {
	Lines      int64 // done, those of earlier runs included
	Registered int64 // by this run
	Failed     int64 // by this run
	Offset     int64 // octets of the input that are done
}

// BulkResult is a line of the report.
type BulkResult struct {
	Line           int64  `json:"line"` // 1 for the first
	Thing          string `json:"thingName,omitempty"`
	CertificateID  string `json:"certificateId,omitempty"`
	CertificatePEM string `json:"certificatePem,omitempty"` // one that was made for a CSR
	Code           string `json:"errorCode,omitempty"`
	Message        string `json:"errorMessage,omitempty"`
}

// maxLine bounds a line: a certificate, its CA's and 64 parameters fit.
const maxLine = 128 << 10

// Run registers the lines of a task. A line that is refused is reported and does
// not stop the others; trouble of our own does, and the task can be resumed. A
// line that was registered and not yet reported when a run died is registered
// again, which changes nothing.
func (b *Bulk) Run(ctx context.Context, by access.Actor, t BulkTask) (p BulkProgress, err error) {
	in := bufio.NewScanner(t.Lines)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	in.Split(func(data []byte, end bool) (int, []byte, error) {
		n, token, err := bufio.ScanLines(data, end)
		p.Offset += int64(n)
		return n, token, err
	})
	for in.Scan() {
		p.Lines++
		if p.Lines <= t.Done {
			continue
		}
		if err := ctx.Err(); err != nil {
			return p, err
		}
		r, err := b.line(ctx, by, t.Template, in.Bytes())
		if err != nil {
			f := fault.From(err)
			if f.Kind == fault.Unavailable || f.Kind == fault.Internal {
				return p, err
			}
			r = BulkResult{Code: f.Code, Message: f.What + " " + f.Detail}
			p.Failed++
		} else {
			p.Registered++
		}
		r.Line = p.Lines
		text, err := json.Marshal(r)
		if err == nil {
			_, err = t.Results.Write(append(text, '\n'))
		}
		if err != nil {
			return p, ErrBulk.Wrap(err, "The results cannot be written.")
		}
		if t.Progress != nil {
			t.Progress(p)
		}
	}
	if err := in.Err(); err != nil {
		return p, ErrBulk.Wrap(err, "Line %d cannot be read.", p.Lines+1)
	}
	b.log.InfoContext(ctx, "bulk registration done", "tenant", by.Tenant, "template", t.Template, "lines", p.Lines, "registered", p.Registered, "failed", p.Failed, "by", by.String())
	return p, nil
}

// CountResults counts the complete lines of an earlier run's results, and gives
// their length: what follows it is half a line and has to be cut off.
func CountResults(r io.Reader) (lines, length int64, err error) {
	in := bufio.NewReader(r)
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return lines, length, nil
		}
		if err != nil {
			return lines, length, err
		}
		lines++
		length += int64(len(text))
	}
}

// line registers one device.
func (b *Bulk) line(ctx context.Context, by access.Actor, name string, text []byte) (out BulkResult, err error) {
	v, err := strictjson.Generic(text, strictjson.WithLimits(strictjson.Limits{Size: maxLine, Depth: 2, Values: 256}))
	if err != nil {
		return out, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return out, ErrBulk.New("The line is no object.")
	}
	parameters := make(map[string]string, len(m))
	for k, x := range m {
		if parameters[k], ok = x.(string); !ok {
			return out, ErrBulk.New("The value of %.40q is no text.", k)
		}
	}
	plan, err := b.cfg.Planner.PlanBulk(ctx, by.Scope(), name, parameters)
	if err != nil {
		return out, err
	}
	out.Thing = plan.Thing.Name
	status := fleet.Active
	if !plan.Active {
		status = fleet.Inactive
	}
	at := registry.Attachment{Status: status, How: registry.HowBulk}
	holder := ""
	switch c := &plan.Certificate; {
	case c.ID != "":
		cert, err := b.cfg.Registry.Certificate(ctx, by.Scope(), c.ID)
		if err != nil {
			return out, err
		}
		if cert.How == registry.HowClaimCert {
			return out, ErrLeafInvalid.New("It is a claim certificate.")
		}
		at.Certificate, holder = cert.ID, cert.Holder
	case c.PEM != "":
		cert, err := b.cfg.BYOC.registerUnder(ctx, by, &LeafRegistration{Certificate: []byte(c.PEM), CA: []byte(c.CAPEM), Active: plan.Active}, registry.HowBulk)
		if err != nil {
			return out, err
		}
		at.Certificate, holder = cert.ID, cert.Holder
	case c.CSR != "":
		issued, h, err := b.issue(ctx, by, c.CSR)
		if err != nil {
			return out, discreet(err)
		}
		at.Authority, at.Serial, holder = issued.Authority, issued.Serial, h
		out.CertificatePEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.DER}))
	}
	reg := registrationFrom(by.Tenant, "", holder, &plan)
	if at.Certificate == "" && at.Authority == "" { // a thing without a certificate
		_, err := b.cfg.Registry.CreateThing(ctx, reg.Thing)
		return out, err
	}
	err = retry(func() error {
		_, p, err := b.cfg.Registry.Register(ctx, reg, at)
		out.CertificateID = p.Certificate
		return err
	})
	return out, err
}

// issue makes an operational certificate for a CSR of the file. The key's holder
// is whoever wrote the file; that the device has it nobody proved (S5).
func (b *Bulk) issue(ctx context.Context, by access.Actor, request string) (ca.Issued, string, error) {
	req, err := csr.Parse([]byte(request))
	if err != nil {
		return ca.Issued{}, "", err
	}
	holder := "bulk-" + holderOf(req.SPKIHash)[len("claim-"):]
	issued, err := b.cfg.Issuer.Issue(ctx, ca.Request{
		Identity: ca.Identity{Tenant: by.Tenant, Holder: holder, Profile: string(profile.LDevID), Slot: ca.TwoSlots[0]},
		Subject:  profile.Subject{Organization: b.cfg.Organization, CommonName: holder, SerialNumber: holder}, SPKI: req.SPKI, Key: req.PublicKey, Origin: profile.OriginClaimed,
		Requester: ca.Requester{Actor: by.String()}, Tool: "bulk-registration",
	})
	if err == nil {
		_, err = x509.ParseCertificate(issued.DER)
	}
	return issued, holder, err
}
