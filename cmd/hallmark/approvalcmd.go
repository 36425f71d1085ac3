package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/provisioner/declare"
)

func init() { commands = append(commands, newApprovalCmd) }

func newApprovalCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "approval", Short: "Changes that wait for a second person: look at them, approve or reject",
		Long: `What hallmark apply may not change alone, because it is dangerous or takes a right that
whoever applies lacks, is kept as a request for seven days. Somebody else, with the
right of every change in it, looks at the difference and approves it; then the service
makes all of it in one transaction. docs/apply.md lists what takes two people.`,
		Example: `  hallmark approval list --state open
  hallmark approval show 20270301-151200-a1b2c3d4
  hallmark approval approve 20270301-151200-a1b2c3d4`,
	}
	c.AddCommand(newApprovalListCmd(g), newApprovalShowCmd(g), newApprovalApproveCmd(g), newApprovalRejectCmd(g))
	return c
}

func newApprovalListCmd(g *globals) *cobra.Command {
	var limit int
	var state string
	c := &cobra.Command{
		Use: "list", Short: "List requests, newest first", Args: cobra.NoArgs,
		Example: `  hallmark approval list
  hallmark approval list --state open --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var only *string
			if state != "" {
				if !slices.Contains(declare.RequestStates, declare.RequestState(state)) {
					return errUsage{fmt.Errorf("--state %q is none of %s", state, strings.Join(requestStates(), ", "))}
				}
				only = &state
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.ApprovalRequest, string, error) {
				a, err := api.ListApprovalsWithResponse(cmd.Context(), &adminapi.ListApprovalsParams{State: only, Cursor: cursor, Limit: &n})
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
				for _, r := range items {
					rows = append(rows, []string{r.Id, r.State, asksFor(&r), r.AskedBy, moment(r.AskedAt), moment(r.ExpiresAt), dash(r.DecidedBy)})
				}
				table(w, []string{"REQUEST", "STATE", "ABOUT", "ASKED BY", "ASKED", "OPEN UNTIL", "DECIDED BY"}, rows, "Nothing waits for a second person. hallmark apply makes requests.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only those that are "+strings.Join(requestStates(), ", "))
	c.Flags().IntVar(&limit, "limit", 200, "most requests to list; 0 for all")
	return c
}

func requestStates() (out []string) {
	for _, s := range declare.RequestStates {
		out = append(out, string(s))
	}
	return out
}

// asksFor names the first objects of a request.
func asksFor(r *adminapi.ApprovalRequest) string {
	var out []string
	for i, d := range r.Documents {
		if i == 2 && len(r.Documents) > 3 {
			out = append(out, strconv.Itoa(len(r.Documents)-i)+" more")
			break
		}
		out = append(out, d.Kind+" "+d.Name)
	}
	return strings.Join(out, ", ")
}

func fetchApproval(ctx context.Context, api *adminapi.ClientWithResponses, id string) (*adminapi.ApprovalRequest, error) {
	a, err := api.GetApprovalWithResponse(ctx, id)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	return orProblem(a.JSON200, a.StatusCode(), a.Body)
}

func newApprovalShowCmd(g *globals) *cobra.Command {
	var text bool
	c := &cobra.Command{
		Use: "show REQUEST", Short: "Show a request and what it would change now", Args: cobra.ExactArgs(1),
		Example: `  hallmark approval show 20270301-151200-a1b2c3d4
  hallmark approval show 20270301-151200-a1b2c3d4 --documents`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			r, err := fetchApproval(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			return g.print(r, func(w io.Writer) {
				if text {
					for i, d := range r.Documents {
						if i > 0 {
							fmt.Fprintln(w, "---")
						}
						if d.Text == "" {
							fmt.Fprintf(w, "# %s %s is not for your role\n", visible(d.Kind), visible(d.Name))
						}
						for line := range strings.Lines(d.Text) {
							fmt.Fprintln(w, visible(strings.TrimRight(line, "\n")))
						}
					}
					return
				}
				showApproval(w, r)
				if r.State == string(declare.RequestOpen) && len(r.Refused) == 0 {
					fmt.Fprintf(w, "\nNext: somebody other than %s: hallmark approval approve %s\n", visible(r.AskedBy), shellWord(r.Id))
				}
			})
		},
	}
	c.Flags().BoolVar(&text, "documents", false, "write the documents as they were asked for")
	return c
}

func showApproval(w io.Writer, r *adminapi.ApprovalRequest) {
	var names []string
	for _, d := range r.Documents {
		names = append(names, d.Kind+" "+d.Name)
	}
	until := moment(r.ExpiresAt)
	if r.State != string(declare.RequestOpen) {
		until = ""
	}
	facts(w, "request", r.Id, "state", r.State, "about", strings.Join(names, ", "), "asked by", r.AskedBy, "asked", moment(r.AskedAt), "open until", until,
		"decided by", r.DecidedBy, "decided", moment(r.DecidedAt), "note", r.Note, "SHA-256", r.Hash)
	if len(r.Plan.Items) > 0 {
		fmt.Fprintln(w)
		showDifference(w, &r.Plan, colours(w))
	}
	if len(r.Refused) > 0 {
		fmt.Fprintln(w, "\nAs things are it cannot be approved:")
		for _, s := range r.Refused {
			fmt.Fprintf(w, "    %s\n", visible(s))
		}
	}
}

func newApprovalApproveCmd(g *globals) *cobra.Command {
	var yes bool
	var plan string
	c := &cobra.Command{
		Use: "approve REQUEST", Short: "Put in force what somebody else asked for", Args: cobra.ExactArgs(1),
		Long: `Show the difference, ask, and make all of its changes in one transaction. It takes the
right of every change, and somebody else than who asked. If what is there changed
between the difference and your yes, nothing is done. A hook that is new gets its secret
now; the answer shows it, once.`,
		Example: `  hallmark approval approve 20270301-151200-a1b2c3d4
  hallmark approval approve 20270301-151200-a1b2c3d4 --plan 5f1c… --yes --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if g.JSON && !yes {
				return errUsage{fmt.Errorf("--json asks nothing: give --yes")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if plan == "" {
				r, err := fetchApproval(cmd.Context(), api, args[0])
				if err != nil {
					return err
				}
				showApproval(g.Err, r)
				switch {
				case r.State != string(declare.RequestOpen):
					return declare.ErrRequestDecided.New("It is %s.", r.State)
				case len(r.Refused) > 0:
					return declare.ErrRefused.New("").With("refused", r.Refused)
				case !yes:
					fmt.Fprintf(g.Err, "\nApprove %s that %s asked for? Type yes: ", documents(len(r.Documents)), visible(r.AskedBy))
					line, _ := bufio.NewReader(g.In).ReadString('\n')
					if strings.TrimSpace(line) != "yes" {
						return errNotConfirmed.New("")
					}
				}
				plan = r.Plan.Hash
			} else if !yes {
				return errUsage{fmt.Errorf("--plan names a difference that was looked at before: give --yes too")}
			}
			a, err := api.ApproveApprovalWithResponse(cmd.Context(), args[0], adminapi.ApprovalDecision{Plan: plan})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return g.refusedDocuments(a.StatusCode(), a.Body)
			}
			r := a.JSON200
			return g.print(r, func(w io.Writer) {
				if r.Plan.Todo == 0 {
					fmt.Fprintln(w, "There was nothing left to do; the request is closed.")
					return
				}
				fmt.Fprintf(w, "Approved and applied %s.\n", documents(r.Plan.Todo))
				showSecrets(w, &r.Plan)
				for _, i := range r.Plan.Items {
					if len(i.Next) > 0 {
						fmt.Fprintf(w, "%s %s\n", visible(i.Kind), visible(i.Name))
						showNext(w, &i)
					}
				}
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "approve without asking")
	c.Flags().StringVar(&plan, "plan", "", "hash of the difference that was looked at, as show --json gives it")
	return c
}

func newApprovalRejectCmd(g *globals) *cobra.Command {
	var note string
	c := &cobra.Command{
		Use: "reject REQUEST", Short: "End a request; who asked takes it back in this way", Args: cobra.ExactArgs(1),
		Example: `  hallmark approval reject 20270301-151200-a1b2c3d4 --note "that address is not ours"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RejectApprovalWithResponse(cmd.Context(), args[0], adminapi.ApprovalRejection{Note: note})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			r, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			return g.print(r, func(w io.Writer) { fmt.Fprintf(w, "Rejected %s. Nothing of it was done.\n", visible(r.Id)) })
		},
	}
	c.Flags().StringVar(&note, "note", "", "why, for who asked")
	return c
}
