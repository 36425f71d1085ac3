package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/internal/fault"
)

var errKeyFile = fault.Define(fault.Invalid, "cli-key-file", "The file holds no private key that can be used.", "Give a key in PEM without a passphrase: PKCS #8, or the older forms for EC and RSA.")

func init() { commands = append(commands, newFleetCertCmd) }

func newFleetCertCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "fleet-cert", Short: "Device certificates as the runtime knows them: register, activate, deactivate, revoke",
		Long: `Device certificates by their id, the SHA-256 of the certificate. Here are also those
that were not issued here; hallmark cert shows the records of issuance.`,
		Example: `  hallmark fleet-cert list --status PENDING_ACTIVATION
  hallmark fleet-cert activate 5e3c...
  hallmark fleet-cert register lamp.pem --without-ca --key lamp.key --active`,
	}
	c.AddCommand(newFleetCertListCmd(g), newFleetCertShowCmd(g), newFleetCertRegisterCmd(g), newFleetCertStatusCmd(g, "activate", "ACTIVE", "Let a device use its certificate"),
		newFleetCertStatusCmd(g, "deactivate", "INACTIVE", "Stop a device for now; its connections are closed"), newFleetCertRevokeCmd(g))
	return c
}

func newFleetCertListCmd(g *globals) *cobra.Command {
	var ca, status string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List device certificates", Args: cobra.NoArgs, Example: "  hallmark fleet-cert list --status PENDING_ACTIVATION",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.FleetCertificate, string, error) {
				a, err := api.ListFleetCertificatesWithResponse(cmd.Context(), &adminapi.ListFleetCertificatesParams{Ca: optional(ca), Status: optional(strings.ToUpper(status)), Cursor: cursor, Limit: &n})
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
					rows = append(rows, []string{c.Id, dash(c.CommonName), fleetStatus(&c), c.How, dash(c.Authority), day(c.RegisteredAt), day(c.NotAfter)})
				}
				table(w, []string{"CERTIFICATE", "COMMON NAME", "STATUS", "HOW", "AUTHORITY", "SINCE", "UNTIL"}, rows, "No device certificate fits. Devices come in by first boot, claim, bulk or hallmark fleet-cert register.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&ca, "ca", "", "only those of a registered CA, by its id")
	c.Flags().StringVar(&status, "status", "", "only ACTIVE, INACTIVE, PENDING_ACTIVATION, PENDING_TRANSFER or REVOKED ones")
	c.Flags().IntVar(&limit, "limit", 200, "most certificates to list; 0 for all")
	return c
}

// fleetStatus says what counts: the permanent record stands above the status.
func fleetStatus(c *adminapi.FleetCertificate) string {
	if c.Revoked && c.Status != "REVOKED" {
		return c.Status + ", revoked or on hold"
	}
	return c.Status
}

// fleetCertificate prints a certificate, or the problem.
func (g *globals) fleetCertificate(c *adminapi.FleetCertificate, status int, body []byte) error {
	if c == nil {
		return problem(status, body)
	}
	return g.print(c, func(w io.Writer) {
		facts(w, "certificate", c.Id, "common name", c.CommonName, "status", fleetStatus(c), "usable", yesNo(c.Usable), "came by", c.How, "device", c.Holder, "things", strings.Join(c.Things, ", "),
			"policies", strings.Join(c.Policies, ", "), "authority", c.Authority, "serial", c.Serial, "profile", c.Profile, "registered CA", c.Ca, "offered to", c.TransferTo,
			"from", moment(c.NotBefore), "until", moment(c.NotAfter), "registered", moment(c.RegisteredAt), "changed", moment(c.UpdatedAt))
	})
}

func newFleetCertShowCmd(g *globals) *cobra.Command {
	var asPEM bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show one device certificate", Args: cobra.ExactArgs(1), Example: "  hallmark fleet-cert show 5e3c... --pem > lamp.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetFleetCertificateWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if asPEM && !g.JSON && a.JSON200 != nil {
				_, err := fmt.Fprint(g.Out, a.JSON200.Certificate)
				return err
			}
			return g.fleetCertificate(a.JSON200, a.StatusCode(), a.Body)
		},
	}
	c.Flags().BoolVar(&asPEM, "pem", false, "print the certificate alone")
	return c
}

func newFleetCertRegisterCmd(g *globals) *cobra.Command {
	var r adminapi.FleetCertificateRequest
	var caFile, keyFile, proofFile string
	c := &cobra.Command{
		Use: "register FILE", Short: "Register a device certificate that was brought along", Args: cobra.ExactArgs(1),
		Long: `Register a certificate. Its CA is a registered one and is found by the issuer, or
named by --ca-cert. Without a registered CA (--without-ca) the certificate's own key
signs for it: --key signs here and goes nowhere, --proof is a signature that was
made elsewhere.`,
		Example: `  hallmark fleet-cert register lamp.pem --active
  hallmark fleet-cert register lamp.pem --without-ca --key lamp.key --active`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile != "" && proofFile != "" {
				return errUsage{errors.New("give either --key or --proof")}
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r.Certificate = string(text)
			if caFile != "" {
				if text, err = os.ReadFile(caFile); err != nil {
					return err
				}
				r.Ca = string(text)
			}
			if proofFile != "" {
				if r.Proof, err = os.ReadFile(proofFile); err != nil {
					return err
				}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if keyFile != "" {
				code, err := api.GetRegistrationCodeWithResponse(cmd.Context())
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if code.JSON200 == nil {
					return problem(code.StatusCode(), code.Body)
				}
				if r.Proof, err = signLeaf(keyFile, text, code.JSON200); err != nil {
					return err
				}
			}
			a, err := api.RegisterFleetCertificateWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.fleetCertificate(a.JSON201, a.StatusCode(), a.Body)
		},
	}
	f := c.Flags()
	f.StringVar(&caFile, "ca-cert", "", "file of its registered CA's certificate")
	f.BoolVar(&r.WithoutCa, "without-ca", false, "its CA is not registered; its own key signs for it")
	f.StringVar(&keyFile, "key", "", "file of the certificate's key, which signs the proof here")
	f.StringVar(&proofFile, "proof", "", "file of the signature, if the key is elsewhere")
	f.BoolVar(&r.Active, "active", false, "let devices use it now")
	return c
}

// signLeaf makes the proof of a certificate's key.
func signLeaf(keyFile string, certificate []byte, code *adminapi.RegistrationCode) ([]byte, error) {
	leaf, err := bootstrap.ParseLeaf(certificate)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return signMessage(key, bootstrap.LeafMessage(code.Tenant, code.Code, leaf.Raw))
}

// readKey reads a key file.
func readKey(name string) (crypto.Signer, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, errKeyFile.Wrap(err, "%s.", name)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, errKeyFile.New("%s.", name)
}

func (g *globals) setFleetStatus(cmd *cobra.Command, id string, r adminapi.FleetCertificateStatus) error {
	api, err := g.admin(cmd.Context())
	if err != nil {
		return err
	}
	a, err := api.SetFleetCertificateStatusWithResponse(cmd.Context(), id, r)
	if err != nil {
		return errAnswer.Wrap(err, "")
	}
	return g.fleetCertificate(a.JSON200, a.StatusCode(), a.Body)
}

func newFleetCertStatusCmd(g *globals, verb, status, short string) *cobra.Command {
	var note string
	c := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  hallmark fleet-cert " + verb + " 5e3c...",
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.setFleetStatus(cmd, args[0], adminapi.FleetCertificateStatus{Status: status, Note: note})
		},
	}
	c.Flags().StringVar(&note, "note", "", "why, for the log")
	return c
}

func newFleetCertRevokeCmd(g *globals) *cobra.Command {
	r := adminapi.FleetCertificateStatus{Status: "REVOKED"}
	c := &cobra.Command{
		Use: "revoke ID", Short: "Revoke a device certificate for ever", Args: cobra.ExactArgs(1),
		Long: `Revoke a device certificate. One that was issued here is on the next list, too; to
block a whole device use hallmark device revoke.`,
		Example: "  hallmark fleet-cert revoke 5e3c... --reason keyCompromise --note stolen",
		RunE:    func(cmd *cobra.Command, args []string) error { return g.setFleetStatus(cmd, args[0], r) },
	}
	c.Flags().StringVar(&r.Reason, "reason", "unspecified", "unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn")
	c.Flags().StringVar(&r.Note, "note", "", "why, for the record")
	return c
}
