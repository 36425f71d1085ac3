package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

var errUnexpectedDecision = fault.Define(fault.Conflict, "cli-policy-decision", "The decision is not the expected one.", "Look at the statement that decided, or at what is missing.")

func newPolicyCheckCmd(g *globals) *cobra.Command {
	var q adminapi.PolicyQuestion
	var files, vars []string
	var expect string
	c := &cobra.Command{
		Use: "check", Short: "Explain whether a device may do something, and which statement decides", Args: cobra.NoArgs,
		Long: `Explain a decision. With --thing or --certificate the service answers by the
policies that count now; with --file the documents of the files are asked on this
machine, with the variables that --var gives.

--expect ends with 1 if the decision is another one, for tests of policies.`,
		Example: `  hallmark policy check --thing LMP-000123 --action iot:Publish --topic dt/LMP-000123/heat
  hallmark policy check --certificate ab12... --action iot:Connect --resource LMP-000124 --client-id LMP-000124
  hallmark policy check --file lamps.json --action iot:Subscribe --topic 'dt/L1/#' \
    --var iot:Connection.Thing.ThingName=L1 --var iot:Connection.Thing.IsAttached=true --expect allowed`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ways := 0
			for _, given := range []bool{q.Thing != "", q.Certificate != "", len(files) > 0} {
				if given {
					ways++
				}
			}
			switch {
			case ways != 1:
				return errUsage{errors.New("give one of --thing, --certificate and --file")}
			case len(vars) > 0 && len(files) == 0:
				return errUsage{errors.New("--var goes with --file; the service knows the device's variables")}
			case expect != "" && expect != "allowed" && expect != "denied":
				return errUsage{fmt.Errorf("--expect %q is neither allowed nor denied", expect)}
			}
			if !strings.Contains(q.Action, ":") {
				q.Action = "iot:" + q.Action
			}
			var d adminapi.PolicyDecision
			if len(files) > 0 {
				var err error
				if d, err = checkFiles(files, vars, q); err != nil {
					return err
				}
			} else {
				api, err := g.admin(cmd.Context())
				if err != nil {
					return err
				}
				a, err := api.CheckPolicyWithResponse(cmd.Context(), q)
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return problem(a.StatusCode(), a.Body)
				}
				d = *a.JSON200
			}
			if err := g.print(d, func(w io.Writer) { showDecision(w, &d) }); err != nil {
				return err
			}
			if allowed := d.Result == string(policy.Allowed); expect != "" && allowed != (expect == "allowed") {
				return errUnexpectedDecision.New("It is %s.", d.Result)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&q.Thing, "thing", "", "name of the device's thing")
	f.StringVar(&q.Certificate, "certificate", "", "id of the device's certificate")
	f.StringVar(&q.Action, "action", "", "such as iot:Connect, iot:Publish, iot:Subscribe or iot:Receive")
	f.StringVar(&q.Resource, "resource", "", "topic, filter, client identifier or thing, or a whole ARN")
	f.StringVar(&q.Resource, "topic", "", "the same as --resource")
	f.StringVar(&q.ClientId, "client-id", "", "client identifier of the connection; the thing's name if not given")
	f.StringVar(&q.SourceIp, "source-ip", "", "address of the device")
	f.StringVar(&q.ServerName, "server-name", "", "server name that the device asks for")
	f.BoolVar(&q.Persistent, "persistent", false, "the session outlives the connection")
	f.BoolVar(&q.LastWill, "last-will", false, "the connection has a will")
	f.StringArrayVar(&files, "file", nil, "policy document to ask on this machine; may be given several times")
	f.StringArrayVar(&vars, "var", nil, "NAME=VALUE of a variable, with --file; may be given several times")
	f.StringVar(&expect, "expect", "", "allowed or denied; another decision ends with 1")
	c.MarkFlagRequired("action")
	return c
}

// checkFiles answers without a service.
func checkFiles(files, vars []string, q adminapi.PolicyQuestion) (d adminapi.PolicyDecision, err error) {
	at := policy.Context{ClientID: q.ClientId, DomainName: q.ServerName, PersistentConnect: q.Persistent, LastWill: q.LastWill}
	if q.SourceIp != "" {
		vars = append(vars, "aws:SourceIp="+q.SourceIp)
	}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return d, errUsage{fmt.Errorf("--var %q is not NAME=VALUE", v)}
		}
		if err := at.Set(name, value); err != nil {
			return d, err
		}
	}
	action, err := policy.ParseAction(q.Action)
	if err != nil {
		return d, err
	}
	if strings.HasPrefix(q.Resource, "arn:") {
		if q.Resource, err = policy.NameOf(action, q.Resource); err != nil {
			return d, err
		}
	}
	var docs []*policy.Document
	e := registry.Explanation{Usable: true, Thing: at.Thing.Name, ClientID: at.ClientID}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return d, err
		}
		doc, err := policy.Parse(text)
		if err != nil {
			return d, err
		}
		doc.Name = filepath.Base(name)
		docs = append(docs, doc)
	}
	e.Decision = policy.Compile(docs...).Explain(&at, action, q.Resource)
	d = decisionView(&e, registry.Question{Action: action, Resource: q.Resource})
	for _, doc := range docs {
		d.Policies = append(d.Policies, adminapi.AttachedPolicy{Policy: doc.Name, From: adminapi.PolicyTarget{Policy: doc.Name, Kind: "file", Name: doc.Name}})
	}
	return d, nil
}

func matchText(m *adminapi.PolicyMatch) string {
	text := m.Effect + " by statement " + fmt.Sprint(m.Statement)
	if m.Sid != "" {
		text += " (" + m.Sid + ")"
	}
	text += " of " + m.Policy
	if m.Version != 0 {
		text += " version " + fmt.Sprint(m.Version)
	}
	if m.From.Kind != "" {
		text += ", from the " + m.From.Kind + " " + m.From.Name
	}
	return text
}

func showDecision(w io.Writer, d *adminapi.PolicyDecision) {
	pairs := []string{"decision", d.Result, "action", d.Action, "resource", d.Resource, "thing", d.Thing, "client id", d.ClientId, "certificate", strings.TrimSpace(d.Certificate + " " + d.Status)}
	switch {
	case !d.Usable:
		pairs = append(pairs, "because", "the certificate may not be used now")
	case len(d.Matches) == 0:
		pairs = append(pairs, "because", "no statement allows it")
	default:
		pairs = append(pairs, "because", matchText(&d.DecidedBy))
	}
	for i := range d.Matches {
		if i > 0 || !d.Usable {
			pairs = append(pairs, "also", matchText(&d.Matches[i]))
		}
	}
	if len(d.Missing) > 0 {
		pairs = append(pairs, "not known", strings.Join(d.Missing, ", "))
	}
	var names []string
	for _, p := range d.Policies {
		names = append(names, p.Policy)
	}
	facts(w, append(pairs, "policies", strings.Join(names, ", "))...)
	if len(names) == 0 {
		fmt.Fprintln(w, "\nNo policy counts for it. Attach one with hallmark policy attach.")
	}
	if d.Action == policy.Connect.String() && d.Thing != "" && d.Resource != d.Thing {
		fmt.Fprintln(w, "\nWhatever policies say, the broker takes the thing's own name as client identifier, or that and a number.")
	}
}

func findingText(f adminapi.PolicyFinding) string {
	text := "statement " + fmt.Sprint(f.Statement)
	if f.Sid != "" {
		text += " (" + f.Sid + ")"
	}
	if f.Resource != "" {
		text += " " + f.Resource
	}
	return text + ": " + f.Reason
}

func newPolicyLintCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "lint FILE", Short: "Check a policy document for what its author probably did not mean", Args: cobra.ExactArgs(1),
		Long: `Check a document as the audit does, without a service. It ends with 1 if something
was found.`,
		Example: "  hallmark policy lint lamps.json",
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := g.readDocument(args[0])
			if err != nil {
				return err
			}
			doc, err := policy.Parse([]byte(text))
			if err != nil {
				return err
			}
			found := mapped(policy.Overbroad(doc), findingView)
			if err := g.print(found, func(w io.Writer) {
				rows := [][]string{}
				for _, f := range found {
					rows = append(rows, []string{fmt.Sprint(f.Statement), dash(f.Sid), f.Reason, dash(f.Resource)})
				}
				table(w, []string{"STATEMENT", "SID", "REASON", "RESOURCE"}, rows, "Nothing was found.")
			}); err != nil {
				return err
			}
			if len(found) > 0 {
				return errSilent
			}
			return nil
		},
	}
}
