package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/fault"
)

var (
	errBulkStopped = fault.Define(fault.Unavailable, "cli-bulk-stopped", "The bulk registration stopped before its end.", "Run the same command again; it goes on after the last line of the results.")
	errBulkResults = fault.Define(fault.Invalid, "cli-bulk-results", "The results are not those of this file.", "Name the results of the earlier run, or a new file, with --results.")
)

func init() { commands = append(commands, newBulkCmd) }

func newBulkCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "bulk", Short: "Bulk registration: devices from a file",
		Example: "  hallmark bulk register lamps.jsonl --template lamps-bulk",
	}
	c.AddCommand(newBulkRegisterCmd(g))
	return c
}

func newBulkRegisterCmd(g *globals) *cobra.Command {
	r := bulkRun{g: g}
	c := &cobra.Command{
		Use: "register FILE", Short: "Register the devices of a file, a JSON object with text values a line", Args: cobra.ExactArgs(1),
		Long: `Register devices with a template of the kind bulk: each line of FILE holds the
parameters of one device. The results are a file of one line a device in the same
order, with its thing, its certificate or the reason of a refusal. Run again, the
command goes on where the results end. It ends with 1 if a line was refused.`,
		Example: `  hallmark bulk register lamps.jsonl --template lamps-bulk
  hallmark bulk register lamps.jsonl --template lamps-bulk --results done.jsonl --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.file = args[0]
			if r.results == "" {
				r.results = r.file + ".results"
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			r.api = api
			sum, err := r.run(cmd.Context())
			if err != nil {
				return err
			}
			if err := g.print(sum, func(w io.Writer) {
				facts(w, "lines", fmt.Sprint(sum.Lines), "registered", fmt.Sprint(sum.Registered), "refused", fmt.Sprint(sum.Refused), "done before", fmt.Sprint(sum.Resumed), "results", sum.Results)
			}); err != nil {
				return err
			}
			if sum.Refused > 0 {
				return errSilent
			}
			return nil
		},
	}
	c.Flags().StringVar(&r.template, "template", "", "template of the kind bulk")
	c.Flags().StringVar(&r.results, "results", "", "file of the results; FILE.results if not given")
	c.MarkFlagRequired("template")
	return c
}

// bulkSummary is the end of a run.
type bulkSummary struct {
	Lines      int64  `json:"lines"`
	Registered int64  `json:"registered"` // earlier runs included
	Refused    int64  `json:"refused"`
	Resumed    int64  `json:"resumed"` // lines that earlier runs had done
	Results    string `json:"results"`
}

// bulkRun is one run over a file.
type bulkRun struct {
	g                       *globals
	api                     *adminapi.ClientWithResponses
	file, template, results string
}

// What one request takes: few enough that its answer comes soon, and below the
// limit of a body even if every octet is escaped.
const (
	bulkLines  = 50
	bulkOctets = 128 << 10
	bulkLine   = 128 << 10
)

func lineScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), bulkLine)
	return s
}

// done reads the results of earlier runs, cuts off half a line that a run which
// died has left, and stands at their end.
func (r *bulkRun) done(out *os.File) (sum bulkSummary, err error) {
	in := bufio.NewReader(out)
	var length int64
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sum, err
		}
		var one adminapi.BulkResult
		if json.Unmarshal(text, &one) != nil || one.Line != sum.Resumed+1 {
			return sum, errBulkResults.New("Line %d of %s.", sum.Resumed+1, r.results)
		}
		sum.Resumed++
		length += int64(len(text))
		sum.count(&one)
	}
	if err := out.Truncate(length); err != nil {
		return sum, err
	}
	_, err = out.Seek(length, io.SeekStart)
	return sum, err
}

func (s *bulkSummary) count(one *adminapi.BulkResult) {
	if one.Code != "" {
		s.Refused++
	} else {
		s.Registered++
	}
}

func (r *bulkRun) run(ctx context.Context) (sum bulkSummary, err error) {
	in, err := os.Open(r.file)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	var total int64
	s := lineScanner(in)
	for s.Scan() {
		total++
	}
	if err := s.Err(); err != nil {
		return sum, fmt.Errorf("line %d of %s: %w", total+1, r.file, err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return sum, err
	}
	out, err := os.OpenFile(r.results, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if sum, err = r.done(out); err != nil {
		return sum, err
	}
	sum.Lines, sum.Results = total, r.results
	if sum.Resumed > total {
		return sum, errBulkResults.New("They have %d lines, and %s has %d.", sum.Resumed, r.file, total)
	}
	bar := r.bar(total)
	if bar != nil {
		bar.Set64(sum.Resumed)
		defer bar.Finish()
	}
	s = lineScanner(in)
	for range sum.Resumed {
		s.Scan()
	}
	next, more := "", s.Scan()
	for at := sum.Resumed; more; {
		var lines []string
		for size := 0; more && len(lines) < bulkLines; more = s.Scan() {
			if next = s.Text(); len(lines) > 0 && size+len(next) > bulkOctets {
				break
			}
			lines = append(lines, next)
			size += len(next)
		}
		for len(lines) > 0 {
			results, err := r.send(ctx, lines)
			if err != nil {
				return sum, err
			}
			for i := range results {
				at++
				results[i].Line = at
				sum.count(&results[i])
				text, err := json.Marshal(results[i])
				if err == nil {
					_, err = out.Write(append(text, '\n'))
				}
				if err != nil {
					return sum, err
				}
			}
			if err := out.Sync(); err != nil {
				return sum, err
			}
			lines = lines[len(results):]
			if bar != nil {
				bar.Set64(at)
			}
		}
	}
	return sum, s.Err()
}

// send registers some lines. A service that is busy or starts again is asked a few
// times more.
func (r *bulkRun) send(ctx context.Context, lines []string) ([]adminapi.BulkResult, error) {
	var failed error
	for try := range 4 {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		a, err := r.api.RegisterInBulkWithResponse(ctx, adminapi.BulkRequest{Template: r.template, Lines: lines})
		if err == nil && a.JSON200 != nil {
			if n := len(a.JSON200.Results); n == 0 || n > len(lines) {
				return nil, errAnswer.New("It has %d results for %d lines.", n, len(lines))
			}
			return a.JSON200.Results, nil
		}
		if err == nil {
			err = problem(a.StatusCode(), a.Body)
			if f := fault.From(err); f.Kind != fault.Unavailable && f.Kind != fault.Exhausted {
				return nil, err
			}
		}
		failed = err
	}
	return nil, errBulkStopped.Wrap(failed, "")
}

func (r *bulkRun) bar(total int64) *progressbar.ProgressBar {
	if r.g.JSON || !terminal(r.g.Err) || total == 0 {
		return nil
	}
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(r.g.Err), progressbar.OptionSetDescription("devices"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("devices"),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100*time.Millisecond))
}
