package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/hsm/token"
)

// keyURIFlag defines a flag with the URI of a key that this command opens itself: a
// relative file: is one in the working directory. A URI for the service is another
// matter: what is relative here is not there.
func keyURIFlag(c *cobra.Command, p *string, name, usage string) {
	c.Flags().Var((*keyURI)(p), name, usage)
}

type keyURI string

func (k *keyURI) String() string { return string(*k) }
func (k *keyURI) Type() string   { return "string" }

func (k *keyURI) Set(s string) error {
	*k = keyURI(s)
	name, ok := strings.CutPrefix(s, token.SchemeFile+":")
	if !ok || name == "" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "?") {
		return nil
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	*k = keyURI(token.URI{Scheme: token.SchemeFile, Path: strings.TrimSuffix(here, "/")}.Key() + "/" + name)
	return nil
}
