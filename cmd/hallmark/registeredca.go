package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newRegisteredCACmd) }

func newRegisteredCACmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "registered-ca", Short: "Registered CAs: whose device certificates are let in",
		Long: `A registered CA vouches for devices: with automatic registration its unknown
certificates are registered when they first connect, with a template at once
(just-in-time provisioning), without one to wait for an activation
(just-in-time registration).`,
		Example: `  hallmark registered-ca code
  hallmark registered-ca register their-ca.pem --verification proof.pem --active --auto-registration --template lamps
  hallmark registered-ca register --authority devices-1 --active`,
	}
	c.AddCommand(newRegisteredCACodeCmd(g), newRegisteredCARegisterCmd(g), newRegisteredCAListCmd(g), newRegisteredCAShowCmd(g),
		newRegisteredCAChangeCmd(g, "activate ID", "Let a CA register certificates", adminapi.RegisteredCAChange{Status: optional("ACTIVE")}),
		newRegisteredCAChangeCmd(g, "deactivate ID", "Have a CA register nothing new; its devices keep working", adminapi.RegisteredCAChange{Status: optional("INACTIVE")}),
		newRegisteredCAAutoCmd(g), newRegisteredCATemplateCmd(g), newRegisteredCABudgetCmd(g), newRegisteredCADeleteCmd(g))
	return c
}

func newRegisteredCACodeCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "code", Short: "Print the registration code that a proof of possession signs", Args: cobra.NoArgs,
		Long: `Print the registration code. Whoever has a CA's key proves it with a certificate
whose common name is the code and which that key signed, the verification
certificate.`,
		Example: `  openssl req -new -subj "/CN=$(hallmark registered-ca code)" -key any.key -out proof.csr
  openssl x509 -req -in proof.csr -CA their-ca.pem -CAkey their-ca.key -out proof.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetRegistrationCodeWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintln(w, a.JSON200.Code) })
		},
	}
}

func newRegisteredCARegisterCmd(g *globals) *cobra.Command {
	var r adminapi.RegisteredCARequest
	var verification string
	var sniOnly bool
	c := &cobra.Command{
		Use: "register [FILE]", Short: "Register a CA by its certificate, or one of our own authorities", Args: cobra.MaximumNArgs(1),
		Long: `Register a CA. A CA that was brought along needs the proof of its key, --verification
(see hallmark registered-ca code); one of the mode SNI_ONLY does not, and its devices
have to name the server. One of our own authorities needs neither file nor proof.`,
		Example: `  hallmark registered-ca register their-ca.pem --verification proof.pem --active --auto-registration
  hallmark registered-ca register --authority devices-1 --active --auto-registration --template lamps`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (r.Authority != "") {
				return errUsage{errors.New("give either the file of a certificate or --authority")}
			}
			if len(args) == 1 {
				text, err := os.ReadFile(args[0])
				if err != nil {
					return err
				}
				r.Certificate = string(text)
			}
			if verification != "" {
				text, err := os.ReadFile(verification)
				if err != nil {
					return err
				}
				r.Verification = string(text)
			}
			if sniOnly {
				r.Mode = "SNI_ONLY"
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RegisterCAWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.registeredCA(a.JSON201, a.StatusCode(), a.Body)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Authority, "authority", "", "name of an issuing authority of ours")
	f.StringVar(&verification, "verification", "", "file of the verification certificate")
	f.BoolVar(&sniOnly, "sni-only", false, "register without a proof; devices have to name the server")
	f.BoolVar(&r.Active, "active", false, "let it register certificates now")
	f.BoolVar(&r.AutoRegistration, "auto-registration", false, "register unknown certificates of it at the door")
	f.StringVar(&r.Template, "template", "", "template of the kind jitp; without one new certificates wait to be activated")
	return c
}

// registeredCA prints a CA after a change, or the problem.
func (g *globals) registeredCA(c *adminapi.RegisteredCA, status int, body []byte) error {
	if c == nil {
		return problem(status, body)
	}
	return g.print(c, func(w io.Writer) {
		budget := ""
		if c.Budget.Name != "" {
			budget = fmt.Sprintf("%d of %d used, %d a minute", c.Budget.Used, c.Budget.Most, c.Budget.PerMinute)
		}
		facts(w, "CA", c.Id, "subject", c.Subject, "authority", c.Authority, "status", c.Status, "mode", c.Mode, "proven", yesNo(c.Proven), "automatic registration", yesNo(c.AutoRegistration),
			"template", c.Template, "budget", budget, "until", moment(c.NotAfter), "registered", moment(c.RegisteredAt), "changed", moment(c.UpdatedAt))
	})
}

func newRegisteredCAListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List registered CAs", Args: cobra.NoArgs, Example: "  hallmark registered-ca list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, _, err := gather(0, func(cursor *string, n int) ([]adminapi.RegisteredCA, string, error) {
				a, err := api.ListRegisteredCAsWithResponse(cmd.Context(), &adminapi.ListRegisteredCAsParams{Cursor: cursor, Limit: &n})
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
				for _, c := range items {
					rows = append(rows, []string{c.Id, c.Subject, dash(c.Authority), c.Status, c.Mode, yesNo(c.AutoRegistration), dash(c.Template), day(c.NotAfter)})
				}
				table(w, []string{"CA", "SUBJECT", "AUTHORITY", "STATUS", "MODE", "AUTO", "TEMPLATE", "UNTIL"}, rows, "No CA is registered. Register one with hallmark registered-ca register.")
			})
		},
	}
}

func newRegisteredCAShowCmd(g *globals) *cobra.Command {
	var pem bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show one registered CA", Args: cobra.ExactArgs(1), Example: "  hallmark registered-ca show 5e3c... --pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetRegisteredCAWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if pem && !g.JSON && a.JSON200 != nil {
				_, err := fmt.Fprint(g.Out, a.JSON200.Certificate)
				return err
			}
			return g.registeredCA(a.JSON200, a.StatusCode(), a.Body)
		},
	}
	c.Flags().BoolVar(&pem, "pem", false, "print the certificate alone")
	return c
}

func (g *globals) changeCA(cmd *cobra.Command, id string, change adminapi.RegisteredCAChange) error {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	a, err := api.UpdateRegisteredCAWithResponse(cmd.Context(), id, change)
	if err != nil {
		return errAnswer.Wrap(err, "")
	}
	return g.registeredCA(a.JSON200, a.StatusCode(), a.Body)
}

func newRegisteredCAChangeCmd(g *globals, use, short string, change adminapi.RegisteredCAChange) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)}
	c.Example = "  hallmark registered-ca " + c.Name() + " 5e3c..."
	c.RunE = func(cmd *cobra.Command, args []string) error { return g.changeCA(cmd, args[0], change) }
	return c
}

func newRegisteredCAAutoCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "auto-registration ID on|off", Short: "Register unknown certificates of a CA at the door, or not", Args: cobra.ExactArgs(2),
		Example: "  hallmark registered-ca auto-registration 5e3c... on",
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return errUsage{fmt.Errorf("%q is neither on nor off", args[1])}
			}
			on := args[1] == "on"
			return g.changeCA(cmd, args[0], adminapi.RegisteredCAChange{AutoRegistration: &on})
		},
	}
}

func newRegisteredCATemplateCmd(g *globals) *cobra.Command {
	var none bool
	c := &cobra.Command{
		Use: "template ID [NAME]", Short: "Say by which template a CA's devices are registered at the door", Args: cobra.RangeArgs(1, 2),
		Example: `  hallmark registered-ca template 5e3c... lamps
  hallmark registered-ca template 5e3c... --none`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == none {
				return errUsage{errors.New("give either the name of a template or --none")}
			}
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			return g.changeCA(cmd, args[0], adminapi.RegisteredCAChange{Template: &name})
		},
	}
	c.Flags().BoolVar(&none, "none", false, "take the template away: new certificates wait to be activated")
	return c
}

// budgetFlags are those of every command that sets a budget.
type budgetFlags struct {
	r       adminapi.BudgetRequest
	expires string
}

func (b *budgetFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.Int64Var(&b.r.Most, "most", 0, "devices in all; 0 allows none")
	f.Int64Var(&b.r.PerMinute, "per-minute", 0, "devices a minute; 0 means no limit")
	f.Int64Var(&b.r.Outstanding, "outstanding", 0, "certificates at a time that wait to be claimed; 0 means no limit")
	f.StringVar(&b.expires, "until", "", "end, such as 2027-01-31; none if not given")
	c.MarkFlagRequired("most")
}

func (b *budgetFlags) request() (adminapi.BudgetRequest, error) {
	var err error
	b.r.ExpiresAt, err = parseWhen(b.expires)
	return b.r, err
}

// budget prints a budget, or the problem.
func (g *globals) budget(b *adminapi.RegistrationBudget, status int, body []byte) error {
	if b == nil {
		return problem(status, body)
	}
	return g.print(b, func(w io.Writer) { facts(w, budgetFacts(b)...) })
}

func budgetFacts(b *adminapi.RegistrationBudget) []string {
	limit := func(n int64) string {
		if n == 0 {
			return "no limit"
		}
		return fmt.Sprint(n)
	}
	out := []string{"used", fmt.Sprintf("%d of %d", b.Used, b.Most), "a minute", limit(b.PerMinute), "at a time", limit(b.Outstanding), "until", moment(b.ExpiresAt)}
	if len(b.Networks) > 0 {
		out = append(out, "from", strings.Join(b.Networks, " "))
	}
	return out
}

func newRegisteredCABudgetCmd(g *globals) *cobra.Command {
	var b budgetFlags
	c := &cobra.Command{
		Use: "budget ID", Short: "Say how many devices a CA may register at the door", Args: cobra.ExactArgs(1),
		Example: "  hallmark registered-ca budget 5e3c... --most 5000 --per-minute 100",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := b.request()
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.PutCABudgetWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.budget(a.JSON200, a.StatusCode(), a.Body)
		},
	}
	b.flags(c)
	return c
}

func newRegisteredCADeleteCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Forget an INACTIVE CA that has no certificates", Args: cobra.ExactArgs(1), Example: "  hallmark registered-ca delete 5e3c...",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeleteRegisteredCAWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintf(w, "The CA %s is forgotten.\n", visible(a.JSON200.Subject)) })
		},
	}
}
