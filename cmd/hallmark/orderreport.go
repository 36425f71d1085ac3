package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/provisioner"
)

// reportType is the DSSE payload type of a completion report.
const reportType = "application/vnd.hallmark.order-report+json"

var errReport = fault.Define(fault.Invalid, "order-report-invalid", "The completion report does not hold.", "Ask the service for it again; if it stays like this, keep it and report it.")

// orderReport is what an order came to. Its canonical form (RFC 8785) is signed
// with the key of the log's checkpoints: whoever verifies receipts can verify it.
type orderReport struct {
	Order     string          `json:"order"`
	Tenant    string          `json:"tenant"`
	Product   string          `json:"product"`
	State     string          `json:"state"`
	KeyOrigin string          `json:"key_origin"`
	Quantity  int64           `json:"quantity"` // as it was signed
	Units     int64           `json:"units"`    // different units with a certificate
	Installed int64           `json:"installed"`
	Proven    int64           `json:"proven"` // the device signed that it has the certificate
	Revoked   int64           `json:"revoked"`
	Void      int64           `json:"void"` // reserved and given up
	First     time.Time       `json:"first"`
	Last      time.Time       `json:"last"`
	Stations  []reportStation `json:"stations"`
	Approval  json.RawMessage `json:"approval,omitempty"` // the signed order
	Log       reportLog       `json:"log"`
	MadeAt    time.Time       `json:"made_at"`
}

// reportStation is what one station asked for.
type reportStation struct {
	Station      string    `json:"station"`
	Certificates int64     `json:"certificates"`
	First        time.Time `json:"first"`
	Last         time.Time `json:"last"`
}

// reportLog ties the report to the log.
type reportLog struct {
	Certificates int64     `json:"certificates"` // leaves of issuance
	FirstLeaf    int64     `json:"first_leaf"`
	LastLeaf     int64     `json:"last_leaf"`
	Root         tlog.Hash `json:"root"`       // of a tree over their entries, in their order
	Checkpoint   string    `json:"checkpoint"` // covers all of them
}

// tally sums the leaves of an order up, in their order.
type tally struct {
	orderReport
	units    map[string]bool
	revoked  map[string]bool
	stations map[string]*reportStation
	hashes   []tlog.Hash // of the tree over the entries, as the library stores it
}

func newTally() *tally {
	return &tally{units: map[string]bool{}, revoked: map[string]bool{}, stations: map[string]*reportStation{}}
}

// ReadHashes implements the library's reader.
func (t *tally) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = t.hashes[x]
	}
	return out, nil
}

func (t *tally) add(r *tlog.Row) error {
	serial := string(r.Serial)
	switch r.Type {
	case tlog.Revoke, tlog.Hold:
		t.revoked[serial] = true
		return nil
	case tlog.Release:
		delete(t.revoked, serial)
		return nil
	case tlog.Void:
		t.Void++
		return nil
	case tlog.Issue:
	default:
		return nil
	}
	more, err := merkle.StoredHashes(t.Log.Certificates, r.Entry[:], t)
	if err != nil {
		return err
	}
	t.hashes = append(t.hashes, more...)
	if t.Log.Certificates == 0 {
		t.First, t.Log.FirstLeaf = r.At.UTC(), r.Index
	}
	t.Log.Certificates++
	t.Last, t.Log.LastLeaf = r.At.UTC(), r.Index
	t.units[r.Holder] = true
	s := t.stations[r.Requester]
	if s == nil {
		s = &reportStation{Station: r.Requester, First: r.At.UTC()}
		t.stations[r.Requester] = s
	}
	s.Certificates++
	s.Last = r.At.UTC()
	return nil
}

// sum finishes the report's figures.
func (t *tally) sum() (orderReport, error) {
	r := t.orderReport
	r.Units, r.Revoked = int64(len(t.units)), int64(len(t.revoked))
	r.Stations = []reportStation{}
	for _, s := range t.stations {
		r.Stations = append(r.Stations, *s)
	}
	slices.SortFunc(r.Stations, func(a, b reportStation) int { return strings.Compare(a.Station, b.Station) })
	var err error
	r.Log.Root, err = merkle.TreeHash(r.Log.Certificates, t)
	return r, err
}

// OrderReport implements [web.Log].
func (b *backend) OrderReport(ctx context.Context, s access.Scope, order string) (adminapi.Envelope, error) {
	var v adminapi.Envelope
	o, err := b.prov.Order(ctx, s, order)
	if err != nil {
		return v, err
	}
	if b.logs == nil || len(o.Envelope) == 0 {
		return v, errNoReport.New("Order %s is %s.", o.ID, o.State)
	}
	rows, err := readAll(b.orderRows(ctx, s, order), rowPosition)
	if err != nil {
		return v, err
	}
	t := newTally()
	for i := range rows {
		if err := t.add(&rows[i]); err != nil {
			return v, err
		}
	}
	r, err := t.sum()
	if err != nil {
		return v, err
	}
	units, err := readAll(b.units(ctx, s, order), unitPosition)
	if err != nil {
		return v, err
	}
	for i := range units {
		if !units[i].InstalledAt.IsZero() {
			r.Installed++
			if units[i].Proven {
				r.Proven++
			}
		}
	}
	signed, err := b.logs.note(ctx)
	if err != nil {
		return v, errNoReport.Wrap(err, "")
	}
	c, err := tlog.ParseCheckpoint(signed, b.tlog.VerifierKey())
	if err != nil {
		return v, err
	}
	if r.Log.Certificates > 0 && r.Log.LastLeaf >= c.Size {
		return v, errNoReport.New("Its last leaf is %d, the checkpoint has %d.", r.Log.LastLeaf, c.Size)
	}
	r.Order, r.Tenant, r.Product, r.State, r.KeyOrigin, r.Quantity = o.ID, o.Tenant, o.Product, string(o.State), string(o.KeyOrigin), o.Quantity
	r.Approval, r.Log.Checkpoint, r.MadeAt = o.Envelope, string(signed), b.now().UTC().Truncate(time.Second)
	return b.logs.signReport(r)
}

// signReport signs a report.
func (k *logKeeper) signReport(r orderReport) (adminapi.Envelope, error) {
	return k.signStatement(reportType, r)
}

// signStatement signs with the key of the log. DSSE's encoding begins with words
// that no checkpoint can begin with, so neither signature is worth anything as
// the other; and it names the type, so that no statement is worth anything as one of
// another type.
func (k *logKeeper) signStatement(payloadType string, statement any) (v adminapi.Envelope, err error) {
	text, err := json.Marshal(statement)
	if err != nil {
		return v, err
	}
	canonical, err := jcs.Transform(text)
	if err != nil {
		return v, err
	}
	id, err := provisioner.KeyID(k.key.Public())
	if err != nil {
		return v, err
	}
	sig, err := signMessage(k.key, provisioner.PAE(payloadType, canonical))
	if err != nil {
		return v, tlog.ErrSigner.Wrap(err, "")
	}
	return adminapi.Envelope{PayloadType: payloadType, Payload: canonical, Signatures: []adminapi.EnvelopeSignature{{Keyid: id, Sig: sig}}}, nil
}

// verifyReport checks a report without asking anybody: the signature, the
// checkpoint, the order's approvers if their keys are given, and that the
// figures agree with each other.
func verifyReport(env adminapi.Envelope, policy tlog.Policy, orders *provisioner.Orders) (*orderReport, []tlog.Cosignature, error) {
	if env.PayloadType != reportType {
		return nil, nil, errReport.New("It is a %.80q.", env.PayloadType)
	}
	if good, err := signedByLog(env, policy.Log); err != nil {
		return nil, nil, err
	} else if !good {
		return nil, nil, errReport.New("The log's key did not sign it.")
	}
	var r orderReport
	if err := strictjson.Decode(env.Payload, &r); err != nil {
		return nil, nil, errReport.Wrap(err, "It cannot be read.")
	}
	c, seen, err := policy.Open([]byte(r.Log.Checkpoint))
	if err != nil {
		return nil, seen, err
	}
	switch {
	case r.Log.Certificates > 0 && (r.Log.LastLeaf >= c.Size || r.Log.FirstLeaf > r.Log.LastLeaf || r.Log.LastLeaf-r.Log.FirstLeaf+1 < r.Log.Certificates):
		return nil, seen, errReport.New("Its leaves do not fit its checkpoint.")
	case r.Units > r.Quantity || r.Units > r.Log.Certificates || r.Installed > r.Units || r.Proven > r.Installed:
		return nil, seen, errReport.New("%d units of %d, %d certificates, %d installed, %d proven.", r.Units, r.Quantity, r.Log.Certificates, r.Installed, r.Proven)
	}
	if orders != nil {
		body, err := orders.Verify(r.Approval)
		if err != nil {
			return nil, seen, err
		}
		if body.ID != r.Order || body.Tenant != r.Tenant || body.Quantity != r.Quantity || body.Product != r.Product || body.KeyOrigin != profile.Origin(r.KeyOrigin) {
			return nil, seen, errReport.New("The approved order says something else.")
		}
	}
	return &r, seen, nil
}

// signedByLog tells whether one of an envelope's signatures is of the log's key.
func signedByLog(env adminapi.Envelope, verifierKey string) (good bool, err error) {
	key, err := logPublicKey(verifierKey)
	if err != nil {
		return false, err
	}
	for _, s := range env.Signatures {
		good = good || ed25519.Verify(key, provisioner.PAE(env.PayloadType, env.Payload), s.Sig)
	}
	return good, nil
}

// logPublicKey is the Ed25519 key in a log's verifier key.
func logPublicKey(verifierKey string) (ed25519.PublicKey, error) {
	if _, err := note.NewVerifier(verifierKey); err != nil {
		return nil, tlog.ErrCheckpoint.Wrap(err, "The verifier key is malformed.")
	}
	parts := strings.SplitN(verifierKey, "+", 3)
	raw, err := decodeBase64(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, tlog.ErrCheckpoint.New("The verifier key is malformed.")
	}
	return ed25519.PublicKey(raw[1:]), nil
}

func newOrderReportCmd(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "report ORDER", Short: "Get the signed completion report of an order", Args: cobra.ExactArgs(1),
		Long: `The report says what was made under an order, by which stations and when. It is
signed with the key of the transparency log and carries a checkpoint that covers
every certificate of the order, so that it can be verified later without us.`,
		Example: "  hallmark order report PO-7 --out po-7-report.json\n  hallmark order check-report po-7-report.json --log-key KEY",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetOrderReportWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			if out != "" {
				b, err := json.MarshalIndent(a.JSON200, "", "  ")
				if err != nil {
					return err
				}
				if err := durable.WriteFile(out, append(b, '\n'), 0o644); err != nil {
					return err
				}
			}
			var r orderReport
			if err := strictjson.Decode(a.JSON200.Payload, &r); err != nil {
				return errReport.Wrap(err, "")
			}
			if r.Order != args[0] {
				return errReport.New("It is about order %s.", r.Order)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				showReport(w, &r)
				if out != "" {
					fmt.Fprintf(w, "\nThe signed report is in %s. Verify it with hallmark order check-report.\n", out)
				}
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "write the signed report to this file")
	return c
}

func newOrderCheckReportCmd(g *globals) *cobra.Command {
	var trust logTrust
	var approvers []string
	var needed int
	c := &cobra.Command{
		Use: "check-report FILE", Short: "Verify a completion report, offline", Args: cobra.ExactArgs(1),
		Long: `Verify the report's signature, the checkpoint in it, and that its figures agree.
With --approver the signatures over the order itself are verified too. Nobody is
asked; the log's verifier key must come from somewhere other than the report.`,
		Example: "  hallmark order check-report po-7-report.json --log-key KEY --witness KEY --approver anna.pub.pem",
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var env adminapi.Envelope
			if err := strictjson.Decode(b, &env); err != nil {
				return errReport.Wrap(err, "It cannot be read.")
			}
			policy, err := trust.policy()
			if err != nil {
				return err
			}
			var orders *provisioner.Orders
			if len(approvers) > 0 {
				var list []provisioner.Approver
				for _, name := range approvers {
					text, err := os.ReadFile(name)
					if err != nil {
						return err
					}
					key, err := parsePublicKey(text)
					if err != nil {
						return errUsage{fmt.Errorf("--approver %s: %w", name, err)}
					}
					list = append(list, provisioner.Approver{Name: name, Key: key})
				}
				if orders, err = provisioner.NewOrders(list, needed); err != nil {
					return err
				}
			}
			r, seen, err := verifyReport(env, policy, orders)
			if err != nil {
				return err
			}
			return g.print(map[string]any{"valid": true, "report": r, "witnesses": seen, "order_verified": orders != nil}, func(w io.Writer) {
				showReport(w, r)
				fmt.Fprintln(w, "\nThe report holds: signed by the log's key, its checkpoint covers every certificate.")
				showSeen(w, seen)
				if orders == nil {
					fmt.Fprintln(w, "Who approved the order was not checked; give --approver.")
				}
			})
		},
	}
	trust.flags(c)
	c.Flags().StringSliceVar(&approvers, "approver", nil, "PEM file with the public key of an approver of the order (again for more)")
	c.Flags().IntVar(&needed, "approvals", 1, "how many approvers must have signed the order")
	return c
}

func showReport(w io.Writer, r *orderReport) {
	facts(w, "order", r.Order, "product", r.Product, "state", r.State, "key origin", r.KeyOrigin, "ordered", fmt.Sprint(r.Quantity), "made", fmt.Sprint(r.Units),
		"installed", fmt.Sprintf("%d, %d proven by the device", r.Installed, r.Proven), "revoked", fmt.Sprint(r.Revoked), "void", fmt.Sprint(r.Void),
		"first", moment(r.First), "last", moment(r.Last), "leaves", fmt.Sprintf("%d certificates, %d to %d", r.Log.Certificates, r.Log.FirstLeaf, r.Log.LastLeaf), "report made", moment(r.MadeAt))
	rows := [][]string{}
	for _, s := range r.Stations {
		rows = append(rows, []string{s.Station, fmt.Sprint(s.Certificates), moment(s.First), moment(s.Last)})
	}
	fmt.Fprintln(w)
	table(w, []string{"MADE BY", "CERTIFICATES", "FIRST", "LAST"}, rows, "Nothing was made.")
}

var errNoLogKey = errors.New("--log-key is needed: the log's verifier key, from somewhere other than what is verified")
