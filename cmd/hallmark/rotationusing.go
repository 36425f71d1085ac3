package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func newRotationUsingCmd(g *globals) *cobra.Command {
	var algorithm, authority string
	var under, limit int
	c := &cobra.Command{
		Use: "using", Short: "List things whose certificates use an algorithm, a key size or an authority", Args: cobra.NoArgs,
		Long: `List things whose certificates use an algorithm, a key size or an authority. It is a
search along the index of things, by certificate.algorithm, certificate.keySize and
certificate.authority; a campaign takes the same query, which is shown at the end.`,
		Example: "  hallmark rotation using --algorithm RSA --smaller 3072\n  hallmark rotation using --authority device-1 --limit 0 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, reason, err := usingQuery(algorithm, under, authority)
			if err != nil {
				return err
			}
			if err := listThings(cmd, g, limit, adminapi.ListThingsParams{Query: &query}, "No thing has such a certificate."); err != nil || g.JSON {
				return err
			}
			parameters := ""
			switch {
			case reason == "algorithm":
				parameters = ` --parameters '{"algorithm":"P-256"}'`
			case authority != "":
				parameters = ` --parameters '{"authority":"` + authority + `"}'`
			}
			fmt.Fprintf(g.Out, "\nNext: hallmark campaign plan NAME --kind rotate-certificate --reason %s --query %s%s\n", reason, shellWord(query), parameters)
			return nil
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", "", "such as RSA, RSA-2048, P-256 or Ed25519")
	c.Flags().IntVar(&under, "smaller", 0, "keys of fewer bits")
	c.Flags().StringVar(&authority, "authority", "", "that issued the certificates")
	c.Flags().IntVar(&limit, "limit", 200, "most things to list; 0 for all")
	return c
}

// usingQuery is a search over things, and the reason of a campaign with it.
func usingQuery(algorithm string, under int, authority string) (query, reason string, err error) {
	var terms []string
	reason = "algorithm"
	for _, v := range []string{algorithm, authority} {
		if strings.ContainsAny(v, ` "*?()[]{}:<>'\`) {
			return "", "", errUsage{fmt.Errorf("%q is no name", v)}
		}
	}
	if algorithm != "" {
		if strings.EqualFold(algorithm, "RSA") {
			algorithm += "-*"
		}
		terms = append(terms, "certificate.algorithm:"+algorithm)
	}
	if under < 0 || under == 0 && algorithm == "" && authority == "" {
		return "", "", errUsage{errors.New("give --algorithm, --smaller or --authority")}
	}
	if under > 0 {
		terms = append(terms, fmt.Sprintf("certificate.keySize<%d", under))
	}
	if authority != "" {
		if terms = append(terms, "certificate.authority:"+authority); len(terms) == 1 {
			reason = "rollover"
		}
	}
	return strings.Join(terms, " AND "), reason, nil
}
