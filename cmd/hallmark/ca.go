package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/internal/durable"
)

func newCACmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "The authorities of a running service",
		Long: `The root stays offline; its certificate and list are stored here. An issuing
authority is made in three steps: its key and CSR here (ca csr), its certificate
at the root (ceremony sign), and the check and installation here (ca install).`,
		Example: `  hallmark ca root --name root-1 --certificate root-1.pem --list root-1.crl
  hallmark ca csr --name device-1 --duty device --cn "Example Device CA 1" --key 'pkcs11:token=line;object=device-1?module-path=…&pin-source=file:…'
  hallmark ca install device-1 --root root-1 --certificate device-1.pem`,
	}
	cmd.AddCommand(newCAListCmd(g), newCARootCmd(g), newCACSRCmd(g), newCATranscriptCmd(g), newCAInstallCmd(g), newCACRLCmd(g), newCAImportCmd(g), newCAServeCmd(g), newCARolloverCmd(g), newCARetireCmd(g), newCARevokeCmd(g), newCACrossCmd(g))
	return cmd
}

func newCAListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the authorities", Args: cobra.NoArgs, Example: "  hallmark ca list --dir demo",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListAuthoritiesWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, a := range a.JSON200.Items {
					key := dash(a.KeyUri)
					if a.Exposed {
						key += " (exposed)"
					}
					rows = append(rows, []string{a.Name, a.Duty, a.State, dash(a.Issuer), day(a.NotAfter), key})
				}
				table(w, []string{"NAME", "DUTY", "STATE", "SIGNED BY", "UNTIL", "KEY"}, rows, "No authority yet. Start with hallmark ceremony root, then hallmark ca root.")
			})
		},
	}
}

func newCARootCmd(g *globals) *cobra.Command {
	var name, cert, list, base string
	cmd := &cobra.Command{
		Use: "root", Short: "Store a root's certificate and list", Args: cobra.NoArgs,
		Example: "  hallmark ca root --name root-1 --certificate root-1.pem --list root-1.crl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := adminapi.RootRequest{Name: name, BaseUrl: base}
			var err error
			if r.Certificate, err = readPEM(cert, "CERTIFICATE"); err != nil {
				return err
			}
			if list != "" {
				if r.List, err = readPEM(list, "X509 CRL"); err != nil {
					return err
				}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateRootWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) { fmt.Fprintf(w, "Root %s stored: %s\n", name, a.JSON201.Subject) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name of the root, as in its ceremony")
	f.StringVar(&cert, "certificate", "", "PEM or DER file of its certificate")
	f.StringVar(&list, "list", "", "PEM or DER file of its list")
	f.StringVar(&base, "base-url", "", "where its list and certificate are fetched, as its ceremony froze it; default the configured one")
	cmd.MarkFlagRequired("name")
	cmd.MarkFlagRequired("certificate")
	return cmd
}

func newCACSRCmd(g *globals) *cobra.Command {
	var r adminapi.AuthorityRequest
	var out, until string
	cmd := &cobra.Command{
		Use: "csr", Short: "Make an issuing authority's key in the service's token, and its CSR", Args: cobra.NoArgs,
		Example: "  hallmark ca csr --name infra-1 --duty infrastructure --cn \"Example Infrastructure CA 1\" --key 'pkcs11:token=line;object=infra-1'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if until != "" {
				t, err := time.Parse(time.DateOnly, until)
				if err != nil {
					return errUsage{fmt.Errorf("--issue-until %q is not a date such as 2036-01-31", until)}
				}
				r.IssueUntil = t
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateAuthorityWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return keepRequest(g, out, a.JSON201)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Name, "name", "", "name of the authority; part of URLs for decades")
	f.StringVar(&r.Duty, "duty", "", "device, or infrastructure (stations, people, servers)")
	f.StringVar(&r.CommonName, "cn", "", "common name of its subject")
	f.StringVar(&r.KeyUri, "key", "", "where the key is made (RFC 7512 URI)")
	f.StringVar(&r.Algorithm, "algorithm", "", "P-256 (default), P-384, RSA-3072, …")
	f.StringVar(&r.BaseUrl, "base-url", "", "start of the URLs in its certificates, frozen; default the configured one")
	f.IntVar(&r.Shards, "shards", 0, "lists that its certificates are spread over; default the configured number")
	f.StringArrayVar(&r.Permitted, "permit", nil, "name that its certificates must keep to: dns:example.com, ip:10.0.0.0/8, uri:example.com; repeatable")
	f.StringArrayVar(&r.Excluded, "exclude", nil, "name that no certificate of it may have; repeatable")
	f.StringArrayVar(&r.Purposes, "purpose", nil, "purpose of everything below it: client-auth, server-auth, ocsp-signing; repeatable")
	f.StringVar(&until, "issue-until", "", "date after which it only signs lists")
	f.StringVar(&out, "out", "", "file for the CSR; default NAME.csr; its transcript lies beside it")
	for _, n := range []string{"name", "duty", "cn", "key"} {
		cmd.MarkFlagRequired(n)
	}
	return cmd
}

func newCATranscriptCmd(g *globals) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "transcript NAME", Short: "Write the CSR of a pending authority and its transcript once more", Args: cobra.ExactArgs(1),
		Example: "  hallmark ca transcript infra-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetAuthorityWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			if a.JSON200.Csr == "" {
				return ca.ErrAuthorityExists.New("%s is %s and has no CSR any more.", args[0], a.JSON200.State)
			}
			return keepRequest(g, out, a.JSON200)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the CSR; default NAME.csr; its transcript lies beside it")
	return cmd
}

// transcriptBeside is where the transcript of a CSR lies.
func transcriptBeside(csr string) string { return csr + ".transcript.json" }

// keepRequest writes what is brought to the root: the CSR, for those who certify it
// in another way, and the transcript, which says what was asked for.
func keepRequest(g *globals, out string, a *adminapi.Authority) error {
	if out == "" {
		out = a.Name + ".csr"
	}
	if err := durable.WriteFile(out, []byte(a.Csr), 0o644); err != nil {
		return err
	}
	bring := out
	if a.Transcript != "" {
		bring = transcriptBeside(out)
		if err := durable.WriteFile(bring, []byte(a.Transcript), 0o644); err != nil {
			return err
		}
	}
	return g.print(a, func(w io.Writer) {
		fmt.Fprintf(w, "CSR of %s written to %s", a.Name, out)
		if bring != out {
			fmt.Fprintf(w, ", its transcript to %s", bring)
		}
		fmt.Fprintln(w, ".")
		if b, _ := pem.Decode([]byte(a.Csr)); b != nil {
			fmt.Fprintf(w, "Read its checksum aloud at the ceremony: %s\n", ceremony.WordsOf(b.Bytes))
		}
		// A key that keeps no rules is signed for only by who says so, too.
		mode := ""
		if t, _, err := ceremony.Open([]byte(a.Transcript)); err == nil && slices.ContainsFunc(t.Exceptions, func(e string) bool { return strings.HasPrefix(e, "development:") }) {
			mode = " --development"
		}
		fmt.Fprintf(w, "Next, at the root, with the URI of its key, its certificate and its newest transcript:\n  hallmark ceremony sign --csr %s --key KEY-URI --root ROOT.pem --previous NEWEST.transcript.json%s\n", filepath.Base(bring), mode)
	})
}

func newCAInstallCmd(g *globals) *cobra.Command {
	var root, cert string
	cmd := &cobra.Command{
		Use: "install NAME", Short: "Check and install the certificate of an issuing authority", Args: cobra.ExactArgs(1),
		Long: `The certificate has to be for the key that the token holds, signed by this root, of
the profile of the duty, and narrowed exactly as was asked for with hallmark ca csr.`,
		Example: `  hallmark ca install device-1 --root root-1 --certificate device-1.pem
  hallmark ca install device-1 --root root-1 --certificate device-1.sign.transcript.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readSigned(cert)
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.InstallAuthorityWithResponse(cmd.Context(), args[0], adminapi.InstallRequest{Certificate: text, Root: root})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "%s is active until %s.\n", a.JSON200.Name, a.JSON200.NotAfter.Format(time.DateOnly))
			})
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "name of the root that signed it")
	cmd.Flags().StringVar(&cert, "certificate", "", "PEM or DER file, or the transcript of its signing")
	cmd.MarkFlagRequired("root")
	cmd.MarkFlagRequired("certificate")
	return cmd
}

func newCACRLCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "crl ROOT FILE", Short: "Store a new list of a root", Args: cobra.ExactArgs(2),
		Example: "  hallmark ca crl root-1 root-1.crl",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readPEM(args[1], "X509 CRL")
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			l, err := api.PutRootListWithResponse(cmd.Context(), args[0], adminapi.RootListRequest{List: text})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if l.JSON200 == nil {
				return problem(l.StatusCode(), l.Body)
			}
			return g.print(map[string]string{"root": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "The list of %s is published.\n", args[0]) })
		},
	}
	return cmd
}

// readSigned reads a certificate, or the transcript that holds it.
func readSigned(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err == nil && bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return string(b), nil
	}
	return readPEM(file, "CERTIFICATE")
}

// readPEM reads a file in PEM or DER and gives PEM.
func readPEM(file, kind string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if block, _ := pem.Decode(b); block != nil {
		if block.Type != kind {
			return "", fmt.Errorf("%s holds a %s, not a %s", file, block.Type, kind)
		}
		return string(pem.EncodeToMemory(block)), nil
	}
	if kind == "CERTIFICATE" {
		if _, err := x509.ParseCertificate(b); err != nil {
			return "", fmt.Errorf("%s is neither PEM nor DER of a certificate: %w", file, err)
		}
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})), nil
}
