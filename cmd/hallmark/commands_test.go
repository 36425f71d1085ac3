package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hallmark/internal/clock"
)

// eachCommand walks over all of them, cobra's own included.
func eachCommand(t *testing.T, do func(path []string, c *cobra.Command)) {
	t.Helper()
	n := 0
	var walk func(path []string, c *cobra.Command)
	walk = func(path []string, c *cobra.Command) {
		n++
		do(path, c)
		for _, sub := range c.Commands() {
			walk(append(path[:len(path):len(path)], sub.Name()), sub)
		}
	}
	walk([]string{}, testRoot())
	if n < 100 {
		t.Fatalf("only %d commands were found", n)
	}
}

func testRoot() *cobra.Command {
	var out bytes.Buffer
	root := newRootCmd(&globals{Out: &out, Err: &out, In: strings.NewReader(""), Now: clock.Now})
	root.SetOut(&out)
	root.SetErr(&out)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// A script that calls a command which is none has to see that nothing was done.
func TestCommands_AnUnknownOneIsAnError(t *testing.T) {
	groups := 0
	eachCommand(t, func(path []string, c *cobra.Command) {
		if !c.HasSubCommands() {
			return
		}
		if c.Args == nil && c.HasParent() {
			t.Errorf("%s takes any arguments", c.CommandPath())
		}
		if c.Use != c.Name() { // it has arguments of its own
			return
		}
		groups++
		var out, errOut bytes.Buffer
		exit := run(t.Context(), append(path, "no-such-command"), strings.NewReader(""), &out, &errOut)
		if exit != exitUsage || !strings.Contains(errOut.String(), `unknown command "no-such-command" for "`+c.CommandPath()+`"`) {
			t.Errorf("%s no-such-command: exit %d, %.100s%.100s", c.CommandPath(), exit, out.String(), errOut.String())
		}
		if !isGroup(c) {
			return
		}
		out.Reset()
		if exit := run(t.Context(), path, strings.NewReader(""), &out, &errOut); exit != exitOK || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s alone: exit %d, %.100s", c.CommandPath(), exit, out.String())
		}
	})
	if groups < 20 {
		t.Errorf("only %d groups", groups)
	}
	var out, errOut bytes.Buffer
	if exit := run(t.Context(), []string{"stations", "revok"}, strings.NewReader(""), &out, &errOut); exit != exitUsage || !strings.Contains(errOut.String(), "revoke") {
		t.Errorf("a slip: %d %s", exit, errOut.String())
	}
}

// Every example is a command that there is, with flags and arguments that it takes.
func TestCommands_TheExamplesAreRight(t *testing.T) {
	checked := 0
	eachCommand(t, func(_ []string, c *cobra.Command) {
		for line := range strings.Lines(regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(c.Example, " ")) {
			words := shellWords(line)
			for len(words) > 0 && (strings.Contains(words[0], "=") || words[0] == "sudo") {
				words = words[1:]
			}
			if len(words) == 0 || words[0] != "hallmark" {
				continue // another program's line
			}
			checked++
			if err := takes(testRoot(), words[1:]); err != nil {
				t.Errorf("%s: %s: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
		if c.HasExample() && c.Runnable() && !c.HasSubCommands() && !strings.Contains(c.Example, c.CommandPath()) && c.Name() != "help" {
			t.Errorf("%s: no example calls it: %s", c.CommandPath(), c.Example)
		}
	})
	if checked < 200 {
		t.Errorf("only %d examples were found", checked)
	}
}

// isGroup tells whether a command does nothing by itself.
func isGroup(c *cobra.Command) bool {
	return c.HasSubCommands() && c.Use == c.Name() && !c.LocalNonPersistentFlags().HasFlags()
}

// takes says why a command line would be refused before anything is done.
func takes(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if isGroup(c) {
		if len(c.Flags().Args()) > 0 {
			return fmt.Errorf("%s has no command %s", c.CommandPath(), c.Flags().Arg(0))
		}
		return fmt.Errorf("%s is a group", c.CommandPath())
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err
	}
	if err := c.ValidateRequiredFlags(); err != nil {
		return err
	}
	return c.ValidateFlagGroups()
}

// shellWords splits the first command of a line as a shell does. What stands after
// two blanks explains.
func shellWords(line string) (words []string) {
	line = strings.TrimSpace(line)
	if i := strings.Index(line, "  "); i > 0 {
		line = line[:i]
	}
	word, in, quote, depth := "", false, rune(0), 0
	end := func() {
		if in {
			words = append(words, word)
		}
		word, in = "", false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case depth > 0 || strings.HasSuffix(word, "$") && r == '(':
			word, in = word+string(r), true
			depth += map[rune]int{'(': 1, ')': -1}[r]
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '\t':
			end()
		case strings.ContainsRune("|;&><", r), r == '#' && !in:
			end()
			return words
		default:
			word, in = word+string(r), true
		}
	}
	end()
	return words
}

// The commands beside a service find it under an address that its certificate does not
// have, and believe a name that it has.
func TestCLI_VerifiesAServiceWithoutLocalhostByItsName(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"pki.example.com"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"items":[]}`)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.StartTLS()
	defer srv.Close()
	list := func(names ...string) (string, int) {
		t.Helper()
		s := &Server{cfg: &Config{State: dir, ServerNames: names}, doors: map[string]*door{"people": {"people", srv.Listener, srv.Config}}}
		if err := s.announce(); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "admin.token": []byte("token\n")} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out, errOut bytes.Buffer
		exit := run(t.Context(), []string{"--dir", dir, "--json", "order", "list"}, strings.NewReader(""), &out, &errOut)
		return errOut.String(), exit
	}
	if errOut, exit := list("pki.example.com", "10.0.0.7"); exit != exitOK {
		t.Errorf("%d %s", exit, errOut)
	}
	if errOut, exit := list("other.example.com"); exit != exitFault || !strings.Contains(errOut, "cli-answer") {
		t.Errorf("a service with another name is believed: %d %s", exit, errOut)
	}
	if errOut, exit := list("127.0.0.1"); exit != exitFault {
		t.Errorf("an address that the certificate does not have is believed: %d %s", exit, errOut)
	}
}
