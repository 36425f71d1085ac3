package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/provisioner"
)

var (
	errNotConfirmed  = fault.Define(fault.Conflict, "cli-not-confirmed", "Nothing was done: it was not confirmed.", "Answer the question as it asks, or give --yes after reading what it is about.")
	errOrderForeign  = fault.Define(fault.Invalid, "cli-order-foreign", "What the service sent is not the order that was asked for.", "Do not sign it; check whom this command talks to.")
	errEnvelopeOther = fault.Define(fault.Invalid, "cli-envelope-other", "The envelope is about another order.", "Give the file that the first approver made for this order.")
	errKeyKind       = fault.Define(fault.Invalid, "cli-key-kind", "This kind of key cannot sign orders.", "Use an EC P-256 or P-384, RSA or Ed25519 key.")
)

func init() { commands = append(commands, newOrderCmd) }

func newOrderCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "order", Short: "Production orders: what may be made",
		Long: `An order says what may be made: product, quantity, serials, stations, window. It is
drafted by one person and approved by another with a signature over its exact
text; stations work on it while it is open.`,
		Example: `  hallmark order create --id PO-7 --product lamp --quantity 500 --prefix LMP- --first 1 --last 500 --width 6 --key-origin claimed
  hallmark order approve PO-7 --key 'pkcs11:token=officer;object=orders'
  hallmark order open PO-7`,
	}
	c.AddCommand(newOrderCreateCmd(g), newOrderListCmd(g), newOrderShowCmd(g), newOrderUnitsCmd(g), newOrderApproveCmd(g), newOrderReportCmd(g), newOrderCheckReportCmd(g),
		newOrderMoveCmd(g, "open", "Let stations work on an approved order", (*adminapi.ClientWithResponses).OpenOrderWithResponse, func(r *adminapi.OpenOrderResponse) (*adminapi.Order, int, []byte) {
			return r.JSON200, r.StatusCode(), r.Body
		}),
		newOrderMoveCmd(g, "close", "End an order; nothing is issued under it any more", (*adminapi.ClientWithResponses).CloseOrderWithResponse, func(r *adminapi.CloseOrderResponse) (*adminapi.Order, int, []byte) {
			return r.JSON200, r.StatusCode(), r.Body
		}))
	return c
}

func newOrderCreateCmd(g *globals) *cobra.Command {
	var r adminapi.OrderRequest
	var from, to, listFile string
	c := &cobra.Command{
		Use: "create", Short: "Draft an order", Args: cobra.NoArgs,
		Long: `Draft an order. State exactly one serial rule: a range (--prefix, --first, --last,
--width), a --pattern, or a --list with one serial a line.`,
		Example: `  hallmark order create --id PO-7 --product lamp --quantity 500 --prefix LMP- --first 1 --last 500 --width 6 --key-origin claimed
  hallmark order create --id PO-8 --product lock --quantity 2 --list serials.txt --station st-1 --key-origin station-made --until 2027-01-31`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.NotBefore, err = parseWhen(from); err != nil {
				return err
			}
			if r.NotAfter, err = parseEnd(to); err != nil {
				return err
			}
			if listFile != "" {
				b, err := os.ReadFile(listFile)
				if err != nil {
					return err
				}
				for _, line := range strings.Fields(string(b)) {
					unit, hardware, manifest := strings.Cut(line, ",")
					r.Serials.List = append(r.Serials.List, unit)
					if manifest {
						r.Serials.Hardware = append(r.Serials.Hardware, hardware)
					}
				}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateOrderWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				showOrder(w, a.JSON201)
				fmt.Fprintf(w, "\nNext: a second person approves it with hallmark order approve %s --key URI\n", a.JSON201.Id)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&r.Id, "id", "", "id of the order")
	f.StringVar(&r.Product, "product", "", "what is made")
	f.Int64Var(&r.Quantity, "quantity", 0, "how many units, at most")
	f.StringVar(&r.Serials.Prefix, "prefix", "", "serial range: what every serial begins with")
	f.Int64Var(&r.Serials.First, "first", 0, "serial range: first number")
	f.Int64Var(&r.Serials.Last, "last", 0, "serial range: last number")
	f.IntVar(&r.Serials.Width, "width", 0, "serial range: digits, with leading zeros")
	f.StringVar(&r.Serials.Pattern, "pattern", "", "serials by regular expression")
	f.StringVar(&listFile, "list", "", "file with the serials, one a line; in a manifest SERIAL,HARDWARE with the hardware serial number in hexadecimal")
	f.StringVar(&r.Serials.HardwareType, "hardware-type", "", "object identifier of the hardware type in a manifest (RFC 4108)")
	f.StringSliceVar(&r.Stations, "station", nil, "station that may work on it (again for more); every active one if not given")
	f.StringVar(&from, "from", "", "start of the window (2027-01-31 or 2027-01-31T08:00:00Z; a date alone means its first moment in UTC)")
	f.StringVar(&to, "until", "", "end of the window; a date alone means the end of that day (UTC)")
	f.StringVar(&r.KeyOrigin, "key-origin", "", "where the devices' keys come from: claimed or station-made (the keys that stations take), attested (over ACME) or manifest (which nothing verifies yet)")
	f.BoolVar(&r.CnIsUnit, "cn-is-unit", false, "the CSR's common name may name the unit at the simple endpoint")
	f.BoolVar(&r.AllowUnproven, "allow-unproven", false, "a commit may come without the device's signature")
	f.IntVar(&r.CertificateDays, "certificate-days", 0, "life of the birth certificates; 0 means 9999-12-31")
	f.StringVar(&r.Organization, "organization", "", "organization in the certificates' subject")
	f.StringVar(&r.Region, "region", "", "region, which may decide which authority issues (hallmark ca serve)")
	for _, name := range []string{"id", "product", "quantity", "key-origin"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// parseWhen reads a date or a time.
func parseWhen(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errUsage{fmt.Errorf("%q is not a time such as 2027-01-31 or 2027-01-31T08:00:00Z", text)}
}

// parseEnd reads until when something goes: a date alone is over when its day is, in UTC.
func parseEnd(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	return parseWhen(text)
}

func newOrderListCmd(g *globals) *cobra.Command {
	var state string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List orders", Args: cobra.NoArgs,
		Example: "  hallmark order list --state open",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Order, string, error) {
				a, err := api.ListOrdersWithResponse(cmd.Context(), &adminapi.ListOrdersParams{State: optional(state), Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, o := range items {
					rows = append(rows, []string{o.Id, o.Product, o.State, fmt.Sprintf("%d/%d", o.Used, o.Quantity), o.Serials, dash(day(o.NotAfter)), o.CreatedBy})
				}
				table(w, []string{"ORDER", "PRODUCT", "STATE", "USED", "SERIALS", "UNTIL", "CREATED BY"}, rows, "There is no order. Draft one with hallmark order create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only orders that are draft, approved, open or closed")
	c.Flags().IntVar(&limit, "limit", 200, "most orders to list; 0 for all")
	return c
}

func newOrderShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ORDER", Short: "Show one order", Args: cobra.ExactArgs(1),
		Example: "  hallmark order show PO-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			o, err := fetchOrder(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			return g.print(o, func(w io.Writer) { showOrder(w, o) })
		},
	}
}

func newOrderUnitsCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "units ORDER", Short: "List the units of an order", Args: cobra.ExactArgs(1),
		Example: "  hallmark order units PO-7 --limit 20",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Unit, string, error) {
				a, err := api.ListUnitsWithResponse(cmd.Context(), args[0], &adminapi.ListUnitsParams{Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, u := range items {
					rows = append(rows, []string{u.Unit, u.State, dash(u.Station), u.Serial, yesNo(u.Proven), dash(moment(u.InstalledAt))})
				}
				table(w, []string{"UNIT", "STATE", "STATION", "SERIAL", "PROVEN", "INSTALLED"}, rows, "No unit has been made under this order yet.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most units to list; 0 for all")
	return c
}

func fetchOrder(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.Order, error) {
	a, err := api.GetOrderWithResponse(ctx, id)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return a.JSON200, nil
}

func showOrder(w io.Writer, o *adminapi.Order) {
	stations, days := strings.Join(o.Stations, ", "), "until 9999-12-31"
	if stations == "" {
		stations = "every active one"
	}
	if o.CertificateDays > 0 {
		days = strconv.Itoa(o.CertificateDays) + " days"
	}
	var approved []string
	for _, a := range o.Approvals {
		name := a.Name
		if name == "" {
			name = "key " + a.KeyId
		}
		approved = append(approved, name)
	}
	facts(w, "order", o.Id, "product", o.Product, "state", o.State, "units", fmt.Sprintf("%d of %d used", o.Used, o.Quantity), "serials", o.Serials, "stations", stations,
		"from", moment(o.NotBefore), "until", moment(o.NotAfter), "key origin", o.KeyOrigin, "certificates", days, "organization", o.Organization, "region", o.Region,
		"CN names unit", yesNo(o.CnIsUnit), "proof needed", yesNo(!o.AllowUnproven), "created by", o.CreatedBy, "created", moment(o.CreatedAt), "approved by", strings.Join(approved, ", "))
}

func newOrderMoveCmd[R any](g *globals, verb, short string, do func(*adminapi.ClientWithResponses, context.Context, string, ...adminapi.RequestEditorFn) (R, error), answer func(R) (*adminapi.Order, int, []byte)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ORDER", Short: short, Args: cobra.ExactArgs(1),
		Example: "  hallmark order " + verb + " PO-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			r, err := do(api, cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			o, status, raw := answer(r)
			if o == nil {
				return problem(status, raw)
			}
			return g.print(o, func(w io.Writer) { fmt.Fprintf(w, "Order %s is %s.\n", o.Id, o.State) })
		},
	}
}

func newOrderApproveCmd(g *globals) *cobra.Command {
	var key, module, in, out string
	var yes bool
	c := &cobra.Command{
		Use: "approve ORDER", Short: "Approve an order with your signature over its exact text", Args: cobra.ExactArgs(1),
		Long: `Fetch the order's canonical text (RFC 8785), show it, and sign it with a key that
the service's configuration lists under approvers. Where several approvers are
needed, the first writes --out, the next adds --in, and the last sends.`,
		Example: `  hallmark order approve PO-7 --key 'pkcs11:token=officer;object=orders'
  hallmark order approve PO-7 --key file:anna.pem --out po-7.json
  hallmark order approve PO-7 --key piv:slot=9c --in po-7.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			o, err := fetchOrder(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			// What is shown is read from the octets that are signed, never from
			// the members beside them.
			body, err := provisioner.ParseBody(o.Body)
			if err != nil {
				return err
			}
			if body.ID != args[0] {
				return errOrderForeign.New("It is about %s.", body.ID)
			}
			if err := confirmOrder(g, o.Body, yes); err != nil {
				return err
			}
			keys := hsm.Open(hsm.Config{Module: module, PIN: hsm.PINFunc(func(_ context.Context, id hsm.TokenID, reason string) (hsm.Secret, error) {
				return ceremonyPIN(g, id, reason)
			})})
			defer keys.Close()
			env, err := signOrder(cmd.Context(), keys, key, o.Body)
			if err != nil {
				return err
			}
			if in != "" {
				if err := addSignatures(&env, in); err != nil {
					return err
				}
			}
			if out != "" {
				b, err := json.MarshalIndent(env, "", "  ")
				if err != nil {
					return err
				}
				if err := durable.WriteFile(out, append(b, '\n'), 0o600); err != nil {
					return err
				}
				return g.print(env, func(w io.Writer) {
					fmt.Fprintf(w, "Signed; the envelope is in %s and was not sent.\n", out)
				})
			}
			a, err := api.ApproveOrderWithResponse(cmd.Context(), args[0], env)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "Order %s is %s.\nNext: hallmark order open %s\n", a.JSON200.Id, a.JSON200.State, a.JSON200.Id)
			})
		},
	}
	f := c.Flags()
	keyURIFlag(c, &key, "key", "URI of your key: pkcs11:, piv: or file:")
	f.StringVar(&module, "module", os.Getenv("HALLMARK_PKCS11_MODULE"), "PKCS #11 module for a pkcs11: URI that names none (HALLMARK_PKCS11_MODULE)")
	f.BoolVar(&yes, "yes", false, "sign without asking")
	f.StringVar(&in, "in", "", "envelope with the signatures of others, to add to")
	f.StringVar(&out, "out", "", "write the envelope here instead of sending it")
	c.MarkFlagRequired("key")
	return c
}

// confirmOrder shows what is about to be signed.
func confirmOrder(g *globals, canonical []byte, yes bool) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, canonical, "  ", "  "); err != nil {
		return err
	}
	sum := sha256.Sum256(canonical)
	fmt.Fprintf(g.Err, "This is what you sign (SHA-256 %x):\n  %s\n", sum, visibleLines(pretty.String()))
	if yes {
		return nil
	}
	fmt.Fprint(g.Err, "Approve it? Type yes: ")
	line, _ := bufio.NewReader(g.In).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		return errNotConfirmed.New("")
	}
	return nil
}

func visibleLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = visible(lines[i])
	}
	return strings.Join(lines, "\n")
}

// signOrder makes the envelope: a signature over DSSE's pre-authentication
// encoding of the canonical text.
func signOrder(ctx context.Context, keys *hsm.Keyring, uri string, canonical []byte) (adminapi.Envelope, error) {
	signer, err := keys.Signer(ctx, uri)
	if err != nil {
		return adminapi.Envelope{}, err
	}
	id, err := provisioner.KeyID(signer.Public())
	if err != nil {
		return adminapi.Envelope{}, err
	}
	sig, err := signMessage(signer, provisioner.PAE(provisioner.PayloadType, canonical))
	if err != nil {
		return adminapi.Envelope{}, err
	}
	return adminapi.Envelope{PayloadType: provisioner.PayloadType, Payload: canonical, Signatures: []adminapi.EnvelopeSignature{{Keyid: id, Sig: sig}}}, nil
}

func signMessage(signer crypto.Signer, message []byte) ([]byte, error) {
	switch k := signer.Public().(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize > 256 {
			d := sha512.Sum384(message)
			return signer.Sign(rand.Reader, d[:], crypto.SHA384)
		}
		d := sha256.Sum256(message)
		return signer.Sign(rand.Reader, d[:], crypto.SHA256)
	case *rsa.PublicKey:
		d := sha256.Sum256(message)
		return signer.Sign(rand.Reader, d[:], crypto.SHA256)
	case ed25519.PublicKey:
		return signer.Sign(rand.Reader, message, crypto.Hash(0))
	}
	return nil, errKeyKind.New("")
}

// addSignatures takes the signatures of a file over the same octets.
func addSignatures(env *adminapi.Envelope, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var have adminapi.Envelope
	if err := strictjson.Decode(b, &have); err != nil {
		return err
	}
	if have.PayloadType != env.PayloadType || !bytes.Equal(have.Payload, env.Payload) {
		return errEnvelopeOther.New("")
	}
	env.Signatures = append(have.Signatures, env.Signatures...)
	return nil
}
