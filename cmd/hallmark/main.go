// Command hallmark is factory provisioning and PKI for connected products: the
// service, its command line, the ceremony of the root, the station's software
// and the reference device, in one binary.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/clock"
	"hallmark/internal/fault"
)

// version is set by the release build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes.
const (
	exitOK    = 0
	exitFault = 1
	exitUsage = 2
)

// errUsage marks an error of the command line itself.
type errUsage struct{ error }

// errSilent ends the program with exit code 1 when everything was said already.
var errSilent = errors.New("")

// run is the program; tests call it too.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	g := &globals{Out: out, Err: errOut, In: in, Now: clock.Now}
	root := newRootCmd(g)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var usage errUsage
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") || strings.HasPrefix(err.Error(), "accepts ") || strings.HasPrefix(err.Error(), "requires ") {
		fmt.Fprintln(errOut, "hallmark:", err)
		fmt.Fprintln(errOut, "Try: hallmark --help")
		return exitUsage
	}
	var code errExit
	if errors.As(err, &code) {
		return int(code)
	}
	if !errors.Is(err, errSilent) {
		g.complain(err)
	}
	return exitFault
}

// globals is what every command shares.
type globals struct {
	JSON   bool
	Dir    string // a demo's or service's directory: where its address and token are found
	Server string // URL of the people's listener
	Token  string
	CAFile string
	Out    io.Writer
	Err    io.Writer
	In     io.Reader
	Now    func() time.Time
}

func newRootCmd(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "hallmark",
		Short: "Factory provisioning and PKI for connected products",
		Long: `Hallmark gives every product one certificate at the factory, registers it when it
first boots, and takes trust away when it must. One binary: the service, the
root's ceremony, the station beside the line, and the commands to run them.`,
		Example: `  hallmark demo                          see all of it work in a minute
  hallmark serve --config hallmark.yaml  run the service
  hallmark order list                    ask a running service`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	f := root.PersistentFlags()
	f.BoolVar(&g.JSON, "json", false, "print JSON for programs")
	f.StringVar(&g.Dir, "dir", os.Getenv("HALLMARK_DIR"), "directory of a service or demo, to find its address and token (HALLMARK_DIR)")
	f.StringVar(&g.Server, "server", os.Getenv("HALLMARK_SERVER"), "URL of the administration API (HALLMARK_SERVER)")
	f.StringVar(&g.CAFile, "ca-file", os.Getenv("HALLMARK_CA_FILE"), "PEM file with the root that the service's certificate ends in (HALLMARK_CA_FILE)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return errUsage{err} })
	for _, add := range commands {
		root.AddCommand(add(g))
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	refuseUnknown(root)
	return root
}

// refuseUnknown lets groups of commands refuse what they do not have. Else they show
// their help and end well, and a script goes on as if something had been done.
func refuseUnknown(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseUnknown(sub)
	}
	if !c.HasSubCommands() || c.Runnable() || !c.HasParent() {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			text += ", did you mean " + strings.Join(near, " or ") + "?"
		}
		return errUsage{errors.New(text)}
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// commands is filled by the files of this folder, one command a file.
var commands = []func(*globals) *cobra.Command{
	newServeCmd, newConfigCmd, newDemoCmd, newFsckCmd, newCACmd, newCeremonyCmd, newStationCmd,
}

// print writes v as JSON with --json, else what human writes.
func (g *globals) print(v any, human func(w io.Writer)) error {
	if !g.JSON {
		human(g.Out)
		return nil
	}
	e := json.NewEncoder(g.Out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// nobody tells a service that is not there from one that answers something else.
func nobody(err error) error {
	var dial *net.OpError
	if !errors.Is(err, errAnswer) || !errors.As(err, &dial) || dial.Op != "dial" {
		return err
	}
	where := dial.Addr.String()
	var u *url.Error
	if errors.As(err, &u) {
		if p, e := url.Parse(u.URL); e == nil {
			where = p.Scheme + "://" + p.Host
		}
	}
	return errNobody.Wrap(dial.Err, "%s.", where)
}

// causeOf is the text of a fault's cause, "" without one.
func causeOf(f *fault.Fault) string {
	if f.Cause == nil {
		return ""
	}
	return f.Cause.Error()
}

// complain says what happened and what to do next.
func (g *globals) complain(err error) {
	f := fault.From(nobody(err))
	if f.Code == "internal" && f.Cause != nil {
		if g.JSON {
			json.NewEncoder(g.Err).Encode(map[string]any{"code": "error", "detail": err.Error()})
			return
		}
		fmt.Fprintln(g.Err, "hallmark:", err)
		return
	}
	if g.JSON {
		json.NewEncoder(g.Err).Encode(map[string]any{"code": f.Code, "title": f.What, "detail": f.Detail, "next": f.Next, "members": f.Members, "cause": causeOf(f)})
		return
	}
	fmt.Fprintf(g.Err, "hallmark: %s %s\n", f.What, f.Detail)
	fmt.Fprintf(g.Err, "  next: %s\n  code: %s\n", f.Next, f.Code)
	if f.Cause != nil {
		fmt.Fprintf(g.Err, "  cause: %v\n", f.Cause)
	}
}

var (
	errNoServer = fault.Define(fault.Invalid, "cli-no-server", "It is not known which service to ask, or as whom.", "Give --dir, or --server (HALLMARK_SERVER) and the token in the environment as HALLMARK_TOKEN.")
	errNobody   = fault.Define(fault.Unavailable, "cli-no-answer", "Nothing answers at the service's address.", "Start it with hallmark serve, or give another address with --server or --dir.")
	errAnswer   = fault.Define(fault.Unavailable, "cli-answer", "The service did not answer as expected.", "Check the address and that the service runs the same version.")
)

// endpointFile is what a running service leaves in its state directory for the
// commands on the same machine.
type endpointFile struct {
	People string            `json:"people"`         // https://host:port
	Name   string            `json:"name,omitempty"` // in the certificate, if it is not the host of People
	Doors  map[string]string `json:"doors"`          // host:port by door
	CAFile string            `json:"ca_file"`
	PID    int               `json:"pid"`
}

// locate finds the service: flags first, then the directory.
// name is that in the server's certificate if it is not the one in its URL.
func (g *globals) locate() (server, token, caFile, name string, err error) {
	server, token, caFile = g.Server, g.Token, g.CAFile
	if token == "" {
		token = os.Getenv("HALLMARK_TOKEN")
	}
	if g.Dir != "" {
		for _, state := range []string{g.Dir, filepath.Join(g.Dir, "state")} {
			b, err := os.ReadFile(filepath.Join(state, "endpoints.json"))
			if err != nil {
				continue
			}
			var e endpointFile
			if err := json.Unmarshal(b, &e); err != nil {
				return "", "", "", "", err
			}
			if server == "" {
				server, name = e.People, e.Name
			}
			if caFile == "" {
				caFile = e.CAFile
			}
			for _, file := range []string{filepath.Join(g.Dir, "admin.token"), filepath.Join(state, "admin.token")} {
				if t, err := os.ReadFile(file); err == nil && token == "" {
					token = strings.TrimSpace(string(t))
				}
			}
		}
	}
	if server == "" || token == "" {
		return "", "", "", "", errNoServer.New("")
	}
	return server, token, caFile, name, nil
}

// admin is the client of the administration API.
func (g *globals) admin(ctx context.Context) (*adminapi.ClientWithResponses, error) {
	server, token, caFile, name, err := g.locate()
	if err != nil {
		return nil, err
	}
	return namedClient(server, name, token, caFile)
}

func adminClient(server, token, caFile string) (*adminapi.ClientWithResponses, error) {
	return namedClient(server, "", token, caFile)
}

// namedClient verifies the server by a name; "" means by the one in its URL.
func namedClient(server, name, token, caFile string) (*adminapi.ClientWithResponses, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if caFile != "" {
		b, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, errNoServer.New("The file %s holds no certificate.", caFile)
		}
	}
	hc := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}
	return adminapi.NewClientWithResponses(server, adminapi.WithHTTPClient(hc), adminapi.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
}

// orProblem gives what was expected, or the fault that came instead.
func orProblem[T any](v *T, status int, body []byte) (*T, error) {
	if v == nil {
		return nil, problem(status, body)
	}
	return v, nil
}

// problem turns an answer that is not the expected one into a fault.
func problem(status int, body []byte) error {
	var p struct {
		Title, Detail, Code, Next string
		RequestID                 string `json:"request_id"`
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return errAnswer.New("Status %d.", status)
	}
	d := &fault.Definition{Kind: kindOfStatus(status), Code: p.Code, What: p.Title, Next: p.Next}
	f := d.New("%s", p.Detail)
	if p.RequestID != "" {
		f.With("request_id", p.RequestID)
	}
	return f
}

func kindOfStatus(status int) fault.Kind {
	switch status {
	case http.StatusBadRequest:
		return fault.Invalid
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Forbidden
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusTooManyRequests:
		return fault.Exhausted
	case http.StatusServiceUnavailable:
		return fault.Unavailable
	}
	return fault.Internal
}
