package ca

import (
	"strings"

	"hallmark/ca/lint"
)

// lintFault is the refusal of a certificate by the lints. What the issuer's own
// certificate does not allow is not the program's mistake, so it has its own code.
func lintFault(found []lint.Finding) error {
	names, def := make([]string, len(found)), ErrConstraint
	for i, f := range found {
		names[i] = f.String()
		if f.Rule != "hallmark_"+lint.Constraint {
			def = ErrLint
		}
	}
	return def.New("%s.", strings.Join(names, "; ")).With("rules", names)
}
