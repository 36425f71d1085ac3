package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hallmark/api/adminapi"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/provisioner/declare"
)

var (
	errNotApplied = fault.Define(fault.Conflict, "cli-not-applied", "Nothing was applied.", "Type yes at the question, or give --yes after reading the plan.")
	errNoFiles    = fault.Define(fault.Invalid, "cli-no-documents", "The files with documents cannot be read.", "Name a file, or a directory with files that end in .yaml or .yml, of one MiB in all.")
)

// exitChanges is the exit code of a dry run that found something to do, so that a
// script knows drift from trouble.
const exitChanges = 3

// maxDocumentFile is what the service takes of all files together.
const maxDocumentFile = 1 << 20

// errExit ends the program with a code when everything was said already.
type errExit int

func (e errExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func init() { commands = append(commands, newApplyCmd, newExportCmd) }

func newApplyCmd(g *globals) *cobra.Command {
	var from []string
	var yes, dry bool
	c := &cobra.Command{
		Use: "apply -f FILE|DIR", Short: "Make templates, policies, groups and the like as files say", Args: cobra.NoArgs,
		Long: `Apply documents in YAML: what differs is shown, asked about, and changed in one
transaction. What no document names stays as it is; nothing is deleted. A change that
is dangerous, or takes a right which you lack, is not made: it becomes an approval
request, which somebody else looks at and approves with hallmark approval. An order
becomes a draft that another person approves with a key.

Exit code: 0 when there is nothing to do or it was done, 1 when something was refused,
2 for a mistake on the command line, 3 when --dry-run found changes. docs/apply.md has
an example of every kind.`,
		Example: `  hallmark apply -f fleet/ --dry-run
  hallmark apply -f fleet/
  hallmark export -o fleet/`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.JSON && !yes && !dry {
				return errUsage{errors.New("--json asks nothing: give --yes or --dry-run")}
			}
			if !yes && !dry && slices.Contains(from, "-") {
				return errUsage{errors.New("the question cannot be answered where the documents come from: give --yes or --dry-run")}
			}
			files, err := g.documentFiles(from)
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.MakePlanWithResponse(cmd.Context(), adminapi.PlanRequest{Files: files})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return g.refusedDocuments(a.StatusCode(), a.Body)
			}
			plan := a.JSON200
			if dry || plan.Todo+plan.Waiting == 0 {
				if err := g.print(plan, func(w io.Writer) { showPlan(w, plan, colours(w)) }); err != nil {
					return err
				}
				if dry && plan.Todo+plan.Waiting > 0 {
					return errExit(exitChanges)
				}
				return nil
			}
			if !g.JSON {
				showPlan(g.Out, plan, colours(g.Out))
			}
			if !yes {
				question := "Apply " + documents(plan.Todo)
				if plan.Waiting > 0 {
					question += " and ask for the approval of " + documents(plan.Waiting)
				}
				if plan.Todo == 0 {
					question = "Ask for the approval of " + documents(plan.Waiting)
				}
				fmt.Fprintf(g.Err, "\n%s? Type yes: ", question)
				line, _ := bufio.NewReader(g.In).ReadString('\n')
				if strings.TrimSpace(line) != "yes" {
					return errNotApplied.New("")
				}
			}
			done, err := api.ApplyPlanWithResponse(cmd.Context(), adminapi.PlanApplyRequest{Files: files, Plan: plan.Hash})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if done.JSON200 == nil {
				return g.refusedDocuments(done.StatusCode(), done.Body)
			}
			return g.print(done.JSON200, func(w io.Writer) { showApplied(w, done.JSON200) })
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&from, "filename", "f", nil, "file or directory with documents, - for standard input (again for more)")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	c.MarkFlagRequired("filename")
	return c
}

// documentFiles reads files, and directories down to their last file that ends in
// .yaml or .yml. Hidden ones are somebody else's.
func (g *globals) documentFiles(names []string) (out []adminapi.DocumentFile, err error) {
	seen := map[string]bool{}
	add := func(name string, r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, maxDocumentFile+1))
		if len(b) > maxDocumentFile {
			return errNoFiles.New("%s has more than %d octets.", name, maxDocumentFile)
		}
		if err == nil && !seen[name] {
			seen[name] = true
			out = append(out, adminapi.DocumentFile{Name: filepath.ToSlash(name), Text: string(b)})
		}
		return err
	}
	for _, name := range names {
		if name == "-" {
			if err := add(name, g.In); err != nil {
				return nil, err
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && path != name && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			case d.IsDir(), path != name && (strings.HasPrefix(d.Name(), ".") || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".yml"):
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return add(path, f)
		})
		var own *fault.Fault
		if errors.As(err, &own) {
			return nil, err
		}
		if err != nil {
			return nil, errNoFiles.Wrap(err, "")
		}
	}
	if len(out) == 0 {
		return nil, errNoFiles.New("")
	}
	return out, nil
}

// refusedDocuments says every mistake at its place.
func (g *globals) refusedDocuments(status int, body []byte) error {
	var p struct {
		Errors []declare.Finding `json:"errors"`
	}
	err := problem(status, body)
	if json.Unmarshal(body, &p) != nil || len(p.Errors) == 0 {
		return err
	}
	if g.JSON {
		return fault.From(err).With("errors", p.Errors)
	}
	for _, f := range p.Errors {
		what := strings.TrimSpace(f.Kind + " " + f.Name)
		if what != "" {
			what += ": "
		}
		fmt.Fprintf(g.Err, "%s:%d: %s%s (%s)\n", visible(f.File), f.Line, visible(what), visible(f.Message), visible(f.Code))
	}
	return err
}

// palette is how a difference is coloured; all empty where nobody sees it.
type palette struct{ add, del, change, off string }

func colours(w io.Writer) palette {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		return palette{"\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"}
	}
	return palette{}
}

func documents(n int) string {
	if n == 1 {
		return "one document"
	}
	return fmt.Sprintf("%d documents", n)
}

// showPlan is the plan for people: what is created and changed with its fields,
// what waits for whom, and in one line what is as it should be.
func showPlan(w io.Writer, p *adminapi.Plan, c palette) {
	showDifference(w, p, c)
	switch {
	case p.Todo > 0:
	case p.Waiting > 0:
		fmt.Fprintln(w, "Nothing to do for you but to ask for approval.")
	default:
		fmt.Fprintln(w, "Nothing to do.")
	}
}

func showDifference(w io.Writer, p *adminapi.Plan, c palette) {
	for _, i := range p.Items {
		mark, colour := "~", c.change
		switch {
		case i.Action == declare.Unchanged && len(i.Next) == 0:
			continue
		case i.Action == declare.Unchanged:
			mark, colour = "=", ""
		case i.Waits != "" && len(i.Changes) == 0:
			mark = "?" // not for these eyes
		case i.Action == declare.Create:
			mark, colour = "+", c.add
		}
		off := c.off
		if colour == "" {
			off = ""
		}
		at := fmt.Sprintf("  (%s:%d)", visible(i.File), i.Line)
		if i.File == i.Kind+" "+i.Name { // of a request
			at = ""
		}
		fmt.Fprintf(w, "%s%s %-9s %s %s%s%s\n", colour, mark, i.Action, visible(i.Kind), visible(i.Name), off, at)
		for _, ch := range i.Changes {
			if ch.Before != "" {
				fmt.Fprintf(w, "    %s- %s: %s%s\n", c.del, visible(ch.Path), visible(ch.Before), c.off)
			}
			if ch.After != "" {
				fmt.Fprintf(w, "    %s+ %s: %s%s\n", c.add, visible(ch.Path), visible(ch.After), c.off)
			}
		}
		for _, n := range i.Notes {
			fmt.Fprintf(w, "    note: %s\n", visible(n))
		}
		if i.Dangerous != "" && i.Waits == "" {
			fmt.Fprintf(w, "    dangerous: %s\n", visible(i.Dangerous))
		}
		showNext(w, &i)
	}
	if p.Unchanged > 0 {
		fmt.Fprintf(w, "= unchanged %s\n", documents(p.Unchanged))
	}
}

// showNext says whom a document waits for and with which command.
func showNext(w io.Writer, i *adminapi.PlanItem) {
	if i.Waits != "" {
		who, why := "somebody", ""
		switch {
		case i.Dangerous != "":
			who, why = "a second person", ": "+i.Dangerous+" is dangerous"
		case i.After != "":
			why = ", together with " + i.After
		}
		fmt.Fprintf(w, "    waits: for %s with the right %s (%s)%s\n", who, visible(i.Waits), visible(strings.Join(i.Roles, ", ")), visible(why))
		return
	}
	for _, n := range i.Next {
		fmt.Fprintf(w, "    then: %s\n", visible(n))
	}
}

func showApplied(w io.Writer, p *adminapi.Plan) {
	if p.Todo > 0 || len(p.Requests) == 0 {
		fmt.Fprintf(w, "Applied %s.\n", documents(p.Todo))
	}
	showSecrets(w, p)
	for _, i := range p.Items {
		if i.Waits == "" && len(i.Next) > 0 {
			fmt.Fprintf(w, "%s %s\n", visible(i.Kind), visible(i.Name))
			showNext(w, &i)
		}
	}
	for _, r := range p.Requests {
		asked := "Asked for the approval of " + documents(r.Documents)
		if r.Again {
			asked = "The approval of " + documents(r.Documents) + " was asked for already, by " + visible(r.AskedBy)
		}
		fmt.Fprintf(w, "%s: request %s, open until %s.\n", asked, visible(r.Id), r.ExpiresAt.UTC().Format("2006-01-02 15:04 MST"))
		switch word := shellWord(r.Id); {
		case len(r.Roles) == 0:
			fmt.Fprintln(w, "    no role has the rights for it: apply its documents one at a time")
		default:
			fmt.Fprintf(w, "    then: somebody other than %s (%s): hallmark approval approve %s\n", visible(r.AskedBy), visible(strings.Join(r.Roles, ", ")), word)
		}
	}
}

func showSecrets(w io.Writer, p *adminapi.Plan) {
	for _, i := range p.Items {
		if i.Secret != "" {
			fmt.Fprintf(w, "Secret of the hook %s, shown this once: %s\n", visible(i.Name), visible(i.Secret))
		}
	}
}

// documentKinds are the kinds in the order in which they are put.
var documentKinds = []string{"Hook", "Template", "FleetTemplate", "Policy", "ThingType", "ThingGroup", "BillingGroup", "RegisteredCA", "Registration", "Order", "Serving", "AuthorityEnd", "CrossCertificate", "CampaignStart", "FirmwareRelease", "RootRollover", "OwnershipAct", "Budget"}

func newExportCmd(g *globals) *cobra.Command {
	var dir string
	var kinds []string
	c := &cobra.Command{
		Use: "export", Short: "Write what there is as files for apply", Args: cobra.NoArgs,
		Long: `Export writes a document for each template, policy, group and so on, which apply finds
unchanged. Secrets are not in it: a hook gets a new one where it is applied. Neither are
proofs of possession, closed orders, and kinds that you may not see.`,
		Example: `  hallmark export -o fleet/
  hallmark export --kind Policy,ThingGroup`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := len(kinds) == 0
			if all {
				kinds = documentKinds
			}
			for _, k := range kinds {
				if !slices.Contains(documentKinds, k) {
					return errUsage{fmt.Errorf("--kind %q is none of %s", k, strings.Join(documentKinds, ", "))}
				}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			docs := []adminapi.DeclaredDocument{}
			var hidden []string
			for _, k := range kinds {
				items, err := exportKind(cmd.Context(), api, k)
				if f := fault.From(err); all && f != nil && f.Kind == fault.Forbidden {
					hidden = append(hidden, k)
					continue
				}
				if err != nil {
					return err
				}
				docs = append(docs, items...)
			}
			if len(hidden) > 0 {
				fmt.Fprintf(g.Err, "Left out, because you may not see them: %s\n", strings.Join(hidden, ", "))
			}
			if dir == "" {
				return g.print(docs, func(w io.Writer) {
					for i, d := range docs {
						if i > 0 {
							fmt.Fprintln(w, "---")
						}
						io.WriteString(w, d.Text)
					}
				})
			}
			names, used := []string{}, map[string]int{}
			for _, d := range docs {
				name := filepath.Join(dir, strings.ToLower(d.Kind), fileName(d.Name))
				// Two names that differ only in their case get two files everywhere.
				if n := used[strings.ToLower(name)]; n > 0 {
					name += fmt.Sprintf("%%%d", n+1)
				}
				used[strings.ToLower(filepath.Join(dir, strings.ToLower(d.Kind), fileName(d.Name)))]++
				name += ".yaml"
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					return err
				}
				if err := durable.WriteFile(name, []byte(d.Text), 0o644); err != nil {
					return err
				}
				names = append(names, name)
			}
			return g.print(names, func(w io.Writer) { fmt.Fprintf(w, "Wrote %s to %s.\n", documents(len(names)), dir) })
		},
	}
	f := c.Flags()
	f.StringVarP(&dir, "output", "o", "", "directory to write to, a file for each document; standard output if not given")
	f.StringSliceVar(&kinds, "kind", nil, "only these kinds: "+strings.Join(documentKinds, ", "))
	return c
}

func exportKind(ctx context.Context, api *adminapi.ClientWithResponses, kind string) ([]adminapi.DeclaredDocument, error) {
	items, _, err := gather(0, func(cursor *string, n int) ([]adminapi.DeclaredDocument, string, error) {
		a, err := api.ExportDocumentsWithResponse(ctx, kind, &adminapi.ExportDocumentsParams{Cursor: cursor, Limit: &n})
		if err != nil {
			return nil, "", errAnswer.Wrap(err, "")
		}
		if a.JSON200 == nil {
			return nil, "", problem(a.StatusCode(), a.Body)
		}
		return a.JSON200.Items, a.JSON200.Next, nil
	})
	return items, err
}

// fileName writes a name in letters that every file system takes.
func fileName(name string) string {
	var b strings.Builder
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}
