package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newJobCmd) }

func newJobCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "job", Short: "Jobs: tell devices to do something, and see how it went",
		Long: `A job is a JSON document for things or groups of things. Each device gets it at the
job's rate, does it, and reports; an execution is one device's attempt.`,
		Example: `  hallmark job create --id update-7 --thing LMP-000123 --document '{"operation":"update","version":"7"}'
  hallmark job show update-7
  hallmark job executions update-7 --status FAILED`,
	}
	c.AddCommand(newJobCreateCmd(g), newJobListCmd(g), newJobShowCmd(g), newJobExecutionsCmd(g), newJobCancelCmd(g), newJobDeleteCmd(g), newJobTargetsCmd(g))
	return c
}

// targetFlags are --thing and --group.
type targetFlags struct{ things, groups []string }

func (t *targetFlags) add(c *cobra.Command) {
	c.Flags().StringSliceVar(&t.things, "thing", nil, "thing that gets it (again for more)")
	c.Flags().StringSliceVar(&t.groups, "group", nil, "group of things, static or dynamic (again for more)")
}

func (t *targetFlags) targets() (out []string) {
	for _, n := range t.things {
		out = append(out, "thing/"+n)
	}
	for _, n := range t.groups {
		out = append(out, "thinggroup/"+n)
	}
	return out
}

// jsonOrFile is JSON as it was given, or what the file of that name holds.
func jsonOrFile(text string) (string, error) {
	if t := strings.TrimSpace(text); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") || t == "null" {
		return text, nil
	}
	b, err := os.ReadFile(text)
	if err != nil {
		return "", errUsage{fmt.Errorf("%q is neither JSON nor a file that can be read: %w", text, err)}
	}
	return string(b), nil
}

func newJobCreateCmd(g *globals) *cobra.Command {
	var r adminapi.JobRequest
	var to targetFlags
	var from, until string
	var aborts, retries, windows []string
	c := &cobra.Command{
		Use: "create", Short: "Make a job", Args: cobra.NoArgs,
		Example: `  hallmark job create --id update-7 --thing LMP-000123 --document '{"operation":"update","version":"7"}'
  hallmark job create --id update-8 --group berlin --document update.json --per-minute 50 --timeout-minutes 30 --abort FAILED:10:20 --retry FAILED:2
  hallmark job create --id config-eu --group eu --continuous --document config.json
  hallmark job create --id night --group eu --document update.json --from 2027-01-31 --until 2027-03-01 --window 'cron(0 2 ? * * *):120'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.Targets = to.targets(); len(r.Targets) == 0 {
				return errUsage{fmt.Errorf("a job needs --thing or --group")}
			}
			if r.Document, err = jsonOrFile(r.Document); err != nil {
				return err
			}
			if r.Schedule.Start, err = parseWhen(from); err != nil {
				return err
			}
			if r.Schedule.End, err = parseWhen(until); err != nil {
				return err
			}
			if err := jobCriteria(&r, aborts, retries, windows); err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateJobWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				showJob(w, a.JSON201)
				fmt.Fprintf(w, "\nNext: see how it goes with hallmark job show %s\n", a.JSON201.Id)
			})
		},
	}
	to.add(c)
	f := c.Flags()
	f.StringVar(&r.Id, "id", "", "name of the job: a-z A-Z 0-9 _ -")
	f.StringVar(&r.Document, "document", "", "what the devices get: JSON, or a file with it")
	f.StringToStringVar(&r.Parameters, "parameter", nil, "NAME=VALUE for ${aws:iot:parameter:NAME} in the document (again for more)")
	f.IntVar(&r.UrlSeconds, "url-seconds", 0, "how long presigned URLs in the document hold")
	f.StringVar(&r.Description, "description", "", "what it is for")
	f.BoolVar(&r.Continuous, "continuous", false, "things that join a group later get it too; such a job never ends by itself")
	f.IntVar(&r.Rollout.MaxPerMinute, "per-minute", 0, "most devices told a minute; 1000 if not given")
	f.IntVar(&r.Rollout.BasePerMinute, "base-per-minute", 0, "where a growing rate begins; with --factor and --per-succeeded or --per-notified")
	f.Float64Var(&r.Rollout.Factor, "factor", 0, "by what a growing rate is multiplied, 1.1 to 5")
	f.Int64Var(&r.Rollout.PerSucceeded, "per-succeeded", 0, "the rate grows each time so many more devices succeeded")
	f.Int64Var(&r.Rollout.PerNotified, "per-notified", 0, "the rate grows each time so many more devices were told")
	f.StringArrayVar(&aborts, "abort", nil, "FAILURE:PERCENT:DEVICES: end the job when so many percent of at least so many devices fail; FAILURE is FAILED, REJECTED, TIMED_OUT or ALL (again for more)")
	f.StringArrayVar(&retries, "retry", nil, "FAILURE:TIMES: try again after FAILED, TIMED_OUT or ALL (again for more)")
	f.IntVar(&r.TimeoutMinutes, "timeout-minutes", 0, "how long an execution may be in progress")
	f.StringVar(&from, "from", "", "when it begins (2027-01-31 or 2027-01-31T08:00:00Z)")
	f.StringVar(&until, "until", "", "when it ends")
	f.StringVar(&r.Schedule.EndBehavior, "end-behavior", "", "at its end STOP_ROLLOUT, CANCEL or FORCE_CANCEL")
	f.StringArrayVar(&windows, "window", nil, "CRON:MINUTES: tell devices in these times only (again for more)")
	f.StringToStringVar(&r.Tags, "tag", nil, "NAME=VALUE to find it by (again for more)")
	for _, name := range []string{"id", "document"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// jobCriteria reads what has colons in it.
func jobCriteria(r *adminapi.JobRequest, aborts, retries, windows []string) error {
	for _, text := range aborts {
		parts := strings.Split(text, ":")
		a := adminapi.JobAbort{Failure: strings.ToUpper(parts[0])}
		var err error
		if len(parts) == 3 {
			if a.Percent, err = strconv.ParseFloat(parts[1], 64); err == nil {
				a.MinExecuted, err = strconv.ParseInt(parts[2], 10, 64)
			}
		}
		if len(parts) != 3 || err != nil {
			return errUsage{fmt.Errorf("--abort %q is not like FAILED:10:20", text)}
		}
		r.Abort = append(r.Abort, a)
	}
	for _, text := range retries {
		failure, times, _ := strings.Cut(text, ":")
		n, err := strconv.Atoi(times)
		if err != nil {
			return errUsage{fmt.Errorf("--retry %q is not like FAILED:2", text)}
		}
		r.Retry = append(r.Retry, adminapi.JobRetry{Failure: strings.ToUpper(failure), Retries: n})
	}
	for _, text := range windows {
		at := strings.LastIndexByte(text, ':')
		n, err := strconv.Atoi(text[at+1:])
		if at < 0 || err != nil {
			return errUsage{fmt.Errorf("--window %q is not like 'cron(0 2 ? * * *):120'", text)}
		}
		r.Schedule.Windows = append(r.Schedule.Windows, adminapi.JobWindow{Start: text[:at], Minutes: n})
	}
	return nil
}

func newJobListCmd(g *globals) *cobra.Command {
	var status string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List jobs", Args: cobra.NoArgs,
		Example: "  hallmark job list --status IN_PROGRESS",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Job, string, error) {
				a, err := api.ListJobsWithResponse(cmd.Context(), &adminapi.ListJobsParams{Status: optional(strings.ToUpper(status)), Cursor: cursor, Limit: &n})
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
				for i := range items {
					j := &items[i]
					done, all := jobProgress(j)
					rows = append(rows, []string{j.Id, j.Status, fmt.Sprintf("%d/%d", done, all), fmt.Sprint(j.Counts.Failed + j.Counts.Rejected + j.Counts.TimedOut), strings.Join(j.Targets, ","), moment(j.CreatedAt)})
				}
				table(w, []string{"JOB", "STATUS", "DONE", "FAILED", "TARGETS", "SINCE"}, rows, "There is no such job. Make one with hallmark job create.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&status, "status", "", "only jobs that are SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED or DELETION_IN_PROGRESS")
	c.Flags().IntVar(&limit, "limit", 200, "most jobs to list; 0 for all")
	return c
}

// jobProgress is how many things are done, of how many that are known so far.
func jobProgress(j *adminapi.Job) (done, all int64) {
	n := &j.Counts
	done = n.Succeeded + n.Failed + n.Rejected + n.TimedOut + n.Canceled + n.Removed
	return done, done + n.Waiting + n.Queued + n.InProgress
}

func newJobShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show JOB", Short: "Show one job and how far it came", Args: cobra.ExactArgs(1),
		Example: "  hallmark job show update-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetJobWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showJob(w, a.JSON200) })
		},
	}
}

func showJob(w io.Writer, j *adminapi.Job) {
	kind, n := "as the targets are now", &j.Counts
	if j.Continuous {
		kind = "goes on as groups change"
	}
	pairs := []string{"job", j.Id, "status", j.Status, "description", j.Description, "targets", strings.Join(j.Targets, ", "), "selection", kind, "document", j.Document}
	for _, k := range slices.Sorted(maps.Keys(j.Parameters)) {
		pairs = append(pairs, "parameter", k+" = "+j.Parameters[k])
	}
	if r := j.Rollout; r.MaxPerMinute > 0 {
		pairs = append(pairs, "rate", fmt.Sprintf("at most %d a minute", r.MaxPerMinute))
	}
	if r := j.Rollout; r.BasePerMinute > 0 {
		what, each := "told", r.PerNotified
		if r.PerSucceeded > 0 {
			what, each = "succeeded", r.PerSucceeded
		}
		pairs = append(pairs, "growing rate", fmt.Sprintf("%d a minute, times %g for every %d that %s", r.BasePerMinute, r.Factor, each, what))
	}
	for _, a := range j.Abort {
		pairs = append(pairs, "abort", fmt.Sprintf("%s of %g %% or more, after %d", a.Failure, a.Percent, a.MinExecuted))
	}
	for _, a := range j.Retry {
		pairs = append(pairs, "retry", fmt.Sprintf("%s %d times", a.Failure, a.Retries))
	}
	if j.TimeoutMinutes > 0 {
		pairs = append(pairs, "timeout", fmt.Sprintf("%d minutes", j.TimeoutMinutes))
	}
	pairs = append(pairs, "from", moment(j.Schedule.Start), "until", moment(j.Schedule.End), "at its end", j.Schedule.EndBehavior)
	for _, m := range j.Schedule.Windows {
		pairs = append(pairs, "window", fmt.Sprintf("%s for %d minutes", m.Start, m.Minutes))
	}
	for _, k := range slices.Sorted(maps.Keys(j.Tags)) {
		pairs = append(pairs, "tag", k+" = "+j.Tags[k])
	}
	done, all := jobProgress(j)
	known := ""
	if !j.LookedAtAll {
		known = " known so far"
	}
	pairs = append(pairs, "done", fmt.Sprintf("%d of %d%s", done, all, known))
	for _, c := range []struct {
		name string
		n    int64
	}{{"waiting", n.Waiting}, {"queued", n.Queued}, {"in progress", n.InProgress}, {"succeeded", n.Succeeded}, {"failed", n.Failed}, {"rejected", n.Rejected}, {"timed out", n.TimedOut}, {"canceled", n.Canceled}, {"removed", n.Removed}} {
		if c.n > 0 {
			pairs = append(pairs, c.name, fmt.Sprint(c.n))
		}
	}
	pairs = append(pairs, "reason", j.ReasonCode, "comment", j.Comment, "since", moment(j.CreatedAt), "changed", moment(j.UpdatedAt), "completed", moment(j.CompletedAt))
	facts(w, pairs...)
}

func newJobExecutionsCmd(g *globals) *cobra.Command {
	var status, thing string
	var limit int
	c := &cobra.Command{
		Use: "executions [JOB]", Short: "List how a job went on each thing, or all jobs of one thing", Args: cobra.MaximumNArgs(1),
		Example: `  hallmark job executions update-7 --status FAILED
  hallmark job executions --thing LMP-000123`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (thing != "") {
				return errUsage{fmt.Errorf("give a job, or --thing")}
			}
			ctx := cmd.Context()
			api, err := g.admin(ctx)
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.JobExecution, string, error) {
				var page *adminapi.JobExecutionPage
				var code int
				var body []byte
				st := optional(strings.ToUpper(status))
				if thing != "" {
					a, err := api.ListThingJobsWithResponse(ctx, thing, &adminapi.ListThingJobsParams{Status: st, Cursor: cursor, Limit: &n})
					if err != nil {
						return nil, "", errAnswer.Wrap(err, "")
					}
					page, code, body = a.JSON200, a.StatusCode(), a.Body
				} else {
					a, err := api.ListJobExecutionsWithResponse(ctx, args[0], &adminapi.ListJobExecutionsParams{Status: st, Cursor: cursor, Limit: &n})
					if err != nil {
						return nil, "", errAnswer.Wrap(err, "")
					}
					page, code, body = a.JSON200, a.StatusCode(), a.Body
				}
				if page == nil {
					return nil, "", problem(code, body)
				}
				return page.Items, page.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, e := range items {
					said := []string{}
					for _, k := range slices.Sorted(maps.Keys(e.Details)) {
						said = append(said, k+"="+e.Details[k])
					}
					rows = append(rows, []string{e.Job, e.Thing, fmt.Sprint(e.Number), e.Status, moment(e.UpdatedAt), dash(strings.Join(said, " "))})
				}
				table(w, []string{"JOB", "THING", "ATTEMPT", "STATUS", "CHANGED", "DETAILS"}, rows, "No device was told yet, or none fits. See hallmark job show for what waits.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&status, "status", "", "only those that are QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, REJECTED, TIMED_OUT, CANCELED or REMOVED")
	c.Flags().StringVar(&thing, "thing", "", "all attempts of this thing")
	c.Flags().IntVar(&limit, "limit", 200, "most executions to list; 0 for all")
	return c
}

func newJobCancelCmd(g *globals) *cobra.Command {
	var r adminapi.JobCancelRequest
	var thing string
	c := &cobra.Command{
		Use: "cancel JOB", Short: "End a job, or one thing's part of it", Args: cobra.ExactArgs(1),
		Example: `  hallmark job cancel update-7 --comment "wrong version"
  hallmark job cancel update-7 --force
  hallmark job cancel update-7 --thing LMP-000123`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			if thing != "" {
				a, err := api.CancelJobExecutionWithResponse(cmd.Context(), args[0], thing, adminapi.JobExecutionCancelRequest{Force: r.Force})
				if err != nil {
					return errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return problem(a.StatusCode(), a.Body)
				}
				return g.print(a.JSON200, func(w io.Writer) {
					facts(w, "job", a.JSON200.Job, "thing", a.JSON200.Thing, "attempt", fmt.Sprint(a.JSON200.Number), "status", a.JSON200.Status)
				})
			}
			a, err := api.CancelJobWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				showJob(w, a.JSON200)
				if n := a.JSON200.Counts.InProgress; n > 0 {
					fmt.Fprintf(w, "\n%d devices are in the middle of it and may finish; --force cancels these too.\n", n)
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&thing, "thing", "", "only this thing's execution")
	f.BoolVar(&r.Force, "force", false, "what is in progress too; devices do not notice by themselves")
	f.StringVar(&r.ReasonCode, "reason", "", "a code for why")
	f.StringVar(&r.Comment, "comment", "", "why, in words")
	return c
}

func newJobDeleteCmd(g *globals) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete JOB", Short: "Remove a job and what is known of its executions", Args: cobra.ExactArgs(1),
		Example: "  hallmark job delete update-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.DeleteJobWithResponse(cmd.Context(), args[0], &adminapi.DeleteJobParams{Force: optional(force)})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintf(w, "Job %s is removed.\n", a.JSON200.Id) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also a job that is not over")
	return c
}

func newJobTargetsCmd(g *globals) *cobra.Command {
	var to targetFlags
	var r adminapi.JobTargetsRequest
	c := &cobra.Command{
		Use: "extend JOB", Short: "Give a continuous job more targets", Args: cobra.ExactArgs(1),
		Example: "  hallmark job extend config-eu --group hamburg",
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Targets = to.targets(); len(r.Targets) == 0 {
				return errUsage{fmt.Errorf("give --thing or --group")}
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.AddJobTargetsWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showJob(w, a.JSON200) })
		},
	}
	to.add(c)
	c.Flags().StringVar(&r.Comment, "comment", "", "why, in words")
	return c
}
