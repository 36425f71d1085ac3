package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/csr"
	"hallmark/internal/durable"
)

func init() { commands = append(commands, newClaimCmd) }

func newClaimCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "claim", Short: "Claim certificates: what is built into many devices so that each gets its own",
		Long: `Claim certificates provision devices with one template and do nothing else. Each has
a budget: how many devices in all, how many a minute, how many at a time that have
not claimed theirs. Their keys are made by this program and never leave the machine.`,
		Example: `  hallmark claim create lamps --template lamps --most 5000 --out fleet
  hallmark claim user lamps --out phone
  hallmark claim deactivate 5e3c...`,
	}
	c.AddCommand(newClaimCreateCmd(g), newClaimUserCmd(g), newClaimListCmd(g), newClaimShowCmd(g), newClaimBudgetCmd(g),
		newClaimStatusCmd(g, "deactivate", "INACTIVE", "Stop a claim certificate for now"), newClaimStatusCmd(g, "activate", "ACTIVE", "Let a claim certificate provision again"))
	return c
}

// claimFiles are where a claim goes.
type claimFiles struct{ dir string }

func (f *claimFiles) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "out", ".", "directory for claim.pem and claim.key")
}

// request makes the claim's key, or takes the one of an earlier try, so that a lost
// answer costs nothing, and gives the request for it.
func (f *claimFiles) request() (string, error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(f.dir, "claim.key")
	if _, err := os.Stat(filepath.Join(f.dir, "claim.pem")); err == nil {
		return "", errUsage{fmt.Errorf("%s has a claim.pem already; give another directory", f.dir)}
	}
	var key crypto.Signer
	key, err := readKey(name)
	if errors.Is(err, fs.ErrNotExist) {
		var fresh *ecdsa.PrivateKey
		if fresh, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return "", err
		}
		der, merr := x509.MarshalPKCS8PrivateKey(fresh)
		if merr != nil {
			return "", merr
		}
		key, err = fresh, durable.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
		clear(der)
	}
	if err != nil {
		return "", err
	}
	raw, err := csr.Create(key, "", "")
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw})), err
}

// keep writes the certificate with its issuer beside the key.
func (f *claimFiles) keep(g *globals, c *adminapi.ClaimCertificate, status int, body []byte) error {
	if c == nil {
		return problem(status, body)
	}
	name := filepath.Join(f.dir, "claim.pem")
	if err := durable.WriteFile(name, []byte(c.Certificate+c.Chain), 0o600); err != nil {
		return err
	}
	type made struct {
		adminapi.ClaimCertificate
		CertificateFile string `json:"certificate_file"`
		KeyFile         string `json:"key_file"`
	}
	out := made{*c, name, filepath.Join(f.dir, "claim.key")}
	return g.print(out, func(w io.Writer) {
		facts(w, "claim", c.Id, "policy", c.Policy, "until", moment(c.ExpiresAt), "certificate", out.CertificateFile, "key", out.KeyFile)
	})
}

func newClaimCreateCmd(g *globals) *cobra.Command {
	var r adminapi.ClaimRequest
	var files claimFiles
	var until string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a claim certificate with its budget, in claim.pem and claim.key", Args: cobra.ExactArgs(1),
		Example: "  hallmark claim create lamps --template lamps --most 5000 --per-minute 60 --until 2027-12-31 --network 10.1.0.0/16 --out fleet",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Name = args[0]
			if r.ExpiresAt, err = parseWhen(until); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if r.Csr, err = files.request(); err != nil {
				return err
			}
			a, err := api.CreateClaimWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return files.keep(g, a.JSON201, a.StatusCode(), a.Body)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Template, "template", "", "the one fleet template that it is for")
	f.Int64Var(&r.Most, "most", 0, "devices in all")
	f.Int64Var(&r.PerMinute, "per-minute", 0, "devices a minute; 0 means no limit")
	f.Int64Var(&r.Outstanding, "outstanding", 0, "certificates at a time that wait to be claimed; 100 if not given")
	f.StringVar(&until, "until", "", "end of budget and certificate, such as 2027-01-31")
	f.StringSliceVar(&r.Networks, "network", nil, "site from which it may be used, such as 10.1.0.0/16; everywhere if not given")
	files.flags(c)
	c.MarkFlagRequired("template")
	c.MarkFlagRequired("most")
	return c
}

func newClaimUserCmd(g *globals) *cobra.Command {
	var files claimFiles
	c := &cobra.Command{
		Use: "user TEMPLATE", Short: "Make a claim for a trusted user: one device, five minutes", Args: cobra.ExactArgs(1),
		Example: "  hallmark claim user lamps --out phone",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			request, err := files.request()
			if err != nil {
				return err
			}
			a, err := api.CreateProvisioningClaimWithResponse(cmd.Context(), args[0], adminapi.ProvisioningClaimRequest{Csr: request})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return files.keep(g, a.JSON201, a.StatusCode(), a.Body)
		},
	}
	files.flags(c)
	return c
}

func newClaimListCmd(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List claim certificates and what is left of their budgets", Args: cobra.NoArgs, Example: "  hallmark claim list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Claim, string, error) {
				a, err := api.ListClaimsWithResponse(cmd.Context(), &adminapi.ListClaimsParams{Cursor: cursor, Limit: &n})
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
					rows = append(rows, []string{c.Certificate, c.Holder, c.Template, c.Status, fmt.Sprintf("%d of %d", c.Budget.Used, c.Budget.Most), day(c.NotAfter)})
				}
				table(w, []string{"CLAIM", "NAME", "TEMPLATE", "STATUS", "USED", "UNTIL"}, rows, "There is no claim certificate. Make one with hallmark claim create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "most claims to list; 0 for all")
	return c
}

func newClaimShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one claim certificate and its budget", Args: cobra.ExactArgs(1), Example: "  hallmark claim show 5e3c...",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetClaimWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				c := a.JSON200
				facts(w, append([]string{"claim", c.Certificate, "name", c.Holder, "template", c.Template, "status", c.Status, "usable", yesNo(c.Usable), "certificate until", moment(c.NotAfter),
					"waiting", fmt.Sprint(c.Budget.Open), "made by", c.Budget.CreatedBy}, budgetFacts(&c.Budget)...)...)
			})
		},
	}
}

func newClaimBudgetCmd(g *globals) *cobra.Command {
	var b budgetFlags
	var networks []string
	c := &cobra.Command{
		Use: "budget ID", Short: "Change what a claim certificate may make; what was used stays counted", Args: cobra.ExactArgs(1),
		Example: "  hallmark claim budget 5e3c... --most 8000 --per-minute 60 --outstanding 100",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := b.request()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("network") {
				networks = slices.DeleteFunc(networks, func(s string) bool { return s == "" })
				r.Networks = &networks
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.PutClaimBudgetWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.budget(a.JSON200, a.StatusCode(), a.Body)
		},
	}
	b.flags(c)
	c.Flags().StringSliceVar(&networks, "network", nil, `site from which it may be used, such as 10.1.0.0/16; "" for everywhere`)
	return c
}

func newClaimStatusCmd(g *globals, verb, status, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  hallmark claim " + verb + " 5e3c...",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.setFleetStatus(cmd, args[0], adminapi.FleetCertificateStatus{Status: status})
		},
	}
}
