package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/tlog"
	"hallmark/internal/fsck"
	"hallmark/provisioner"
)

// orderAudit is what `log audit` prints: an order, its quota and the log.
type orderAudit struct {
	Clean     bool            `json:"clean"`
	Order     string          `json:"order"`
	Product   string          `json:"product"`
	State     string          `json:"state"`
	Quantity  int64           `json:"quantity"` // as it was signed
	Used      int64           `json:"used"`     // as the service counts
	Units     int64           `json:"units"`    // different units with a certificate, as the log counts
	Revoked   int64           `json:"revoked"`
	Void      int64           `json:"void"`
	Size      int64           `json:"size"`    // of the log that was read
	Waiting   int64           `json:"waiting"` // leaves of the order without a checkpoint
	Root      tlog.Hash       `json:"root"`    // over the order's certificates, as in its report
	Stations  []reportStation `json:"stations"`
	Days      []auditDay      `json:"days"`
	Made      []auditUnit     `json:"made"`
	Findings  []fsck.Finding  `json:"findings"`
	leaves    map[string]bool // serial numbers
	unitsSeen map[string]bool
}

type auditDay struct {
	Day          string `json:"day"`
	Certificates int64  `json:"certificates"`
}

// auditUnit is one certificate that was made.
type auditUnit struct {
	Unit     string    `json:"unit"`
	Serial   string    `json:"serial"`
	At       time.Time `json:"at"`
	Station  string    `json:"station"`
	Operator string    `json:"operator,omitempty"`
	Tool     string    `json:"tool,omitempty"`
	Leaf     int64     `json:"leaf"`
	Status   string    `json:"status"` // good, revoked
}

// recordGrace is how long after an order's window a reservation that was made in
// it may still be recorded.
const recordGrace = 24 * time.Hour

func (a *orderAudit) add(check, object, detail string, args ...any) {
	a.Findings = append(a.Findings, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
}

func newLogAuditCmd(g *globals) *cobra.Command {
	var trust logTrust
	var order, tiles string
	var list bool
	c := &cobra.Command{
		Use: "audit --order ORDER", Short: "Reconcile an order, its quota and the log", Args: cobra.NoArgs,
		Long: `Compare what was ordered and signed with what the service counted and with what
the log says was made, check every leaf of the order against the signed
checkpoint, and print what each station made and when. Exit code 1 means findings.`,
		Example: "  hallmark log audit --order PO-7\n  hallmark log audit --order PO-7 --list --tiles /mnt/copy --log-key KEY",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			api, err := g.admin(ctx)
			if err != nil {
				return err
			}
			state, err := logState(ctx, api)
			if err != nil {
				return err
			}
			policy, err := trust.from(g, state)
			if err != nil {
				return err
			}
			src := g.tiles(tiles, state)
			signed, err := src.Note(ctx)
			if err != nil {
				return err
			}
			now, _, err := policy.Open(signed)
			if err != nil {
				return err
			}
			a, err := auditOrder(ctx, api, tlog.NewTree(src, now), order)
			if err != nil {
				return err
			}
			if err := g.print(a, func(w io.Writer) { a.show(w, list) }); err != nil {
				return err
			}
			if !a.Clean {
				return errSilent
			}
			return nil
		},
	}
	trust.flags(c)
	c.Flags().StringVar(&order, "order", "", "the order")
	c.Flags().StringVar(&tiles, "tiles", "", "directory or URL of a copy of the log; default is what the service publishes")
	c.Flags().BoolVar(&list, "list", false, "list every certificate")
	requiredFlags(c, "order")
	return c
}

func auditOrder(ctx context.Context, api *adminapi.ClientWithResponses, tree *tlog.Tree, order string) (*orderAudit, error) {
	o, err := fetchOrder(ctx, api, order)
	if err != nil {
		return nil, err
	}
	a := &orderAudit{Order: o.Id, Product: o.Product, State: o.State, Quantity: o.Quantity, Used: o.Used, Size: tree.Size, Stations: []reportStation{}, Days: []auditDay{}, Made: []auditUnit{}, Findings: []fsck.Finding{},
		leaves: map[string]bool{}, unitsSeen: map[string]bool{}}
	// What was approved counts, not the members beside it.
	body, err := provisioner.ParseBody(o.Body)
	if err != nil {
		return nil, err
	}
	if a.Quantity = body.Quantity; body.ID != order || body.Quantity != o.Quantity {
		a.add("order-text", "order "+order, "its text is about %s and %d units", body.ID, body.Quantity)
	}
	leaves, _, err := gather(0, func(cursor *string, n int) ([]adminapi.LogLeaf, string, error) {
		r, err := api.ListOrderLeavesWithResponse(ctx, order, &adminapi.ListOrderLeavesParams{Cursor: cursor, Limit: &n})
		if err != nil {
			return nil, "", errAnswer.Wrap(err, "")
		}
		if r.JSON200 == nil {
			return nil, "", problem(r.StatusCode(), r.Body)
		}
		return r.JSON200.Items, r.JSON200.Next, nil
	})
	if err != nil {
		return nil, err
	}
	units, _, err := gather(0, func(cursor *string, n int) ([]adminapi.Unit, string, error) {
		r, err := api.ListUnitsWithResponse(ctx, order, &adminapi.ListUnitsParams{Cursor: cursor, Limit: &n})
		if err != nil {
			return nil, "", errAnswer.Wrap(err, "")
		}
		if r.JSON200 == nil {
			return nil, "", problem(r.StatusCode(), r.Body)
		}
		return r.JSON200.Items, r.JSON200.Next, nil
	})
	if err != nil {
		return nil, err
	}
	if err := a.log(ctx, tree, body, mapped(leaves, rowOf)); err != nil {
		return nil, err
	}
	a.reconcile(units)
	a.Clean = len(a.Findings) == 0
	return a, nil
}

// log reads the order's leaves: each must be in the tree, and about what it says.
func (a *orderAudit) log(ctx context.Context, tree *tlog.Tree, body *provisioner.Body, rows []tlog.Row) error {
	t := newTally()
	days := map[string]int64{}
	for part := range slices.Chunk(rows, 512) {
		indexes := make([]int64, 0, len(part))
		for i := range part {
			if part[i].Index < tree.Size {
				indexes = append(indexes, part[i].Index)
			} else {
				a.Waiting++
			}
		}
		hashes, err := tree.Leaves(ctx, indexes)
		if err != nil {
			return err
		}
		for i := range part {
			r := &part[i]
			object := fmt.Sprintf("leaf %d (%s, %s)", r.Index, r.Type, r.Holder)
			switch {
			case i < len(hashes) && hashes[i] != tlog.MerkleLeaf(r.Entry), r.Check() != nil, !r.Genuine:
				a.add("leaf-altered", object, "it is not the one that was signed")
			case r.Account != a.Order:
				a.add("leaf-order", object, "it is about the order %q", r.Account)
			}
			if err := t.add(r); err != nil {
				return err
			}
			if r.Type != tlog.Issue {
				continue
			}
			if c := r.Certificate; c == nil || c.Sum != r.Subject {
				a.add("leaf-certificate", object, "the database has not the certificate that was logged")
			}
			station := strings.TrimPrefix(r.Requester, "station:")
			if len(body.Stations) > 0 && !slices.Contains(body.Stations, station) {
				a.add("order-station", object, "%s asked for it, which may not work on this order", r.Requester)
			}
			if body.NotBefore != 0 && r.At.Before(time.Unix(body.NotBefore, 0)) || body.NotAfter != 0 && r.At.After(time.Unix(body.NotAfter, 0).Add(recordGrace)) {
				a.add("order-window", object, "it was made at %s, outside the order's window", r.At.UTC().Format(time.RFC3339))
			}
			days[r.At.UTC().Format(time.DateOnly)]++
			serial := hex.EncodeToString(r.Serial)
			a.leaves[serial], a.unitsSeen[r.Holder] = true, true
			a.Made = append(a.Made, auditUnit{Unit: r.Shown, Serial: serial, At: r.At.UTC(), Station: station, Operator: r.Operator, Tool: r.Tool, Leaf: r.Index, Status: "good"})
		}
	}
	for i := range a.Made {
		raw, _ := hex.DecodeString(a.Made[i].Serial)
		if t.revoked[string(raw)] {
			a.Made[i].Status = "revoked"
		}
	}
	sum, err := t.sum()
	if err != nil {
		return err
	}
	a.Units, a.Revoked, a.Void, a.Stations, a.Root = sum.Units, sum.Revoked, sum.Void, sum.Stations, sum.Log.Root
	for d, n := range days {
		a.Days = append(a.Days, auditDay{d, n})
	}
	slices.SortFunc(a.Days, func(x, y auditDay) int { return strings.Compare(x.Day, y.Day) })
	return nil
}

// reconcile compares what the service counts with what the log says.
func (a *orderAudit) reconcile(units []adminapi.Unit) {
	object := "order " + a.Order
	if a.Units > a.Quantity {
		a.add("order-quota", object, "%d units were ordered, %d are in the log", a.Quantity, a.Units)
	}
	if a.Used > a.Quantity {
		a.add("order-quota", object, "%d units were ordered, %d are used", a.Quantity, a.Used)
	}
	if a.Used < a.Units {
		a.add("order-counter", object, "%d units are used, %d are in the log", a.Used, a.Units)
	}
	if int64(len(units)) != a.Used {
		a.add("order-counter", object, "%d units are used, %d are known", a.Used, len(units))
	}
	known := map[string]bool{}
	for _, u := range units {
		known[strings.ToLower(u.Unit)] = true
		if u.State != "reserved" && u.State != "void" && u.State != "revoked" && !a.leaves[strings.ToLower(u.Serial)] {
			a.add("unit-logged", "unit "+u.Unit, "it is %s and the log has no certificate with its serial number %s", u.State, u.Serial)
		}
	}
	for unit := range a.unitsSeen {
		if !known[unit] {
			a.add("unit-known", "unit "+unit, "the log has its certificate, the order has not the unit")
		}
	}
}

func (a *orderAudit) show(w io.Writer, list bool) {
	for _, f := range a.Findings {
		fmt.Fprintln(w, visible(f.String()))
	}
	facts(w, "order", a.Order, "product", a.Product, "state", a.State, "ordered", fmt.Sprint(a.Quantity), "used", fmt.Sprint(a.Used),
		"made", fmt.Sprintf("%d units, %d certificates", a.Units, len(a.Made)), "revoked", fmt.Sprint(a.Revoked), "void", fmt.Sprint(a.Void),
		"log", fmt.Sprintf("%d leaves, %d of the order wait for a checkpoint", a.Size, a.Waiting), "root over them", a.Root.String())
	rows := [][]string{}
	for _, s := range a.Stations {
		rows = append(rows, []string{s.Station, fmt.Sprint(s.Certificates), moment(s.First), moment(s.Last)})
	}
	fmt.Fprintln(w)
	table(w, []string{"MADE BY", "CERTIFICATES", "FIRST", "LAST"}, rows, "Nothing was made.")
	rows = nil
	for _, d := range a.Days {
		rows = append(rows, []string{d.Day, fmt.Sprint(d.Certificates)})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
		table(w, []string{"DAY", "CERTIFICATES"}, rows, "")
	}
	if list {
		rows = nil
		for _, u := range a.Made {
			rows = append(rows, []string{u.Unit, u.Serial, moment(u.At), u.Station, dash(u.Operator), fmt.Sprint(u.Leaf), u.Status})
		}
		fmt.Fprintln(w)
		table(w, []string{"UNIT", "SERIAL", "ISSUED", "STATION", "OPERATOR", "LEAF", "STATUS"}, rows, "")
	}
	fmt.Fprintln(w)
	if a.Clean {
		fmt.Fprintln(w, "Order, quota and log agree.")
	} else {
		fmt.Fprintf(w, "%d findings: order, quota and log do not agree.\n", len(a.Findings))
	}
}
