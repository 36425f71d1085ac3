package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func newCAImportCmd(g *globals) *cobra.Command {
	var r adminapi.AuthorityRequest
	var cert string
	cmd := &cobra.Command{
		Use: "import", Short: "Take over an issuing authority that exists, with its key and certificate", Args: cobra.NoArgs,
		Long: `The key stays where it is: in an encrypted PKCS #8 file (openssl pkcs8 -topk8 -v2
aes-256-cbc), or in a token to which it was copied. Copies of
it may exist, so the authority is marked as exposed in list, health and metrics for
as long as it is there. Where its duty is served already, it issues nothing before a
declaration names it (hallmark ca serve), which a second person approves. Production mode takes a key in a file only if
tokens.exposed_keys names it.

The way out is a new key that is made in a token, and a rollover to it:

  hallmark ca csr --name devices-2 --duty device --cn "Devices CA 2" --key 'pkcs11:token=line;object=devices-2'
  hallmark ceremony sign …                     # at the root
  hallmark ca install devices-2 --root root-1 --certificate devices-2.pem
  hallmark ca rollover plan legacy-1 devices-2 # then start and finish`,
		Example: `  hallmark ca root --name legacy-root --certificate legacy-root.pem --list legacy-root.crl
  hallmark ca import --name legacy-1 --duty device --root legacy-root --certificate legacy-1.pem --key 'file:/etc/hallmark/legacy-1.pem?passphrase-source=file:/run/secrets/legacy-1'`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if r.Certificate, err = readPEM(cert, "CERTIFICATE"); err != nil {
				return err
			}
			r.CommonName = r.Name // it has its subject already
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
			return g.print(a.JSON201, func(w io.Writer) {
				fmt.Fprintf(w, "%s is imported: %s, until %s.\n", a.JSON201.Name, a.JSON201.Subject, day(a.JSON201.NotAfter))
				if a.JSON201.Exposed {
					fmt.Fprintln(w, "Its key is EXPOSED: copies of it may exist. Plan a rollover to a key that is made in a token.")
				}
				fmt.Fprintln(w, "Whether it issues is declared with hallmark ca serve.")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Name, "name", "", "name of the authority; part of URLs for decades")
	f.StringVar(&r.Duty, "duty", "", "device, or infrastructure (stations, people, servers)")
	f.StringVar(&r.Root, "root", "", "name of the stored root that signed it")
	f.StringVar(&cert, "certificate", "", "PEM or DER file of its certificate")
	f.StringVar(&r.KeyUri, "key", "", "where its key is: file: or pkcs11:")
	f.StringVar(&r.BaseUrl, "base-url", "", "start of the URLs in the certificates it issues, frozen; default the configured one")
	f.IntVar(&r.Shards, "shards", 0, "lists that its certificates are spread over; default the configured number")
	for _, n := range []string{"name", "duty", "root", "certificate", "key"} {
		cmd.MarkFlagRequired(n)
	}
	return cmd
}
