package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/fault"
)

var errCampaignOver = fault.Define(fault.Conflict, "campaign-not-completed", "The campaign did not go to its end.", "Look at it with hallmark campaign show, and at who failed with hallmark campaign members.")

// campaign asks for one campaign.
func (g *globals) campaign(ctx context.Context, id string) (*adminapi.Campaign, error) {
	api, err := g.admin(ctx)
	if err != nil {
		return nil, err
	}
	a, err := api.GetCampaignWithResponse(ctx, id)
	if err != nil {
		return nil, errAnswer.Wrap(err, "")
	}
	if a.JSON200 == nil {
		return nil, problem(a.StatusCode(), a.Body)
	}
	return a.JSON200, nil
}

// newCampaignMoveCmd is a command that changes a campaign's state.
func newCampaignMoveCmd(g *globals, verb, short string) *cobra.Command {
	var note adminapi.CampaignNote
	c := &cobra.Command{
		Use: verb + " CAMPAIGN", Short: short, Args: cobra.ExactArgs(1),
		Example: "  hallmark campaign " + verb + " march",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := g.admin(ctx)
			if err != nil {
				return err
			}
			move := map[string]func(context.Context, string, adminapi.CampaignNote, ...adminapi.RequestEditorFn) (*http.Response, error){
				"pause": api.PauseCampaign, "resume": api.ResumeCampaign, "cancel": api.CancelCampaign, "rollback": api.RollbackCampaign, "ask": api.AskCampaign,
			}[verb]
			a, err := move(ctx, args[0], note)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			defer a.Body.Close()
			body, err := io.ReadAll(io.LimitReader(a.Body, 4<<20))
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.StatusCode != http.StatusOK {
				return problem(a.StatusCode, body)
			}
			var v adminapi.Campaign
			if err := json.Unmarshal(body, &v); err != nil {
				return errAnswer.Wrap(err, "")
			}
			return g.print(&v, func(w io.Writer) {
				facts(w, "campaign", v.Id, "state", v.State, "request", v.Request)
				fmt.Fprintf(w, "\nNext: %s\n", campaignNext(&v))
			})
		},
	}
	if verb == "cancel" || verb == "rollback" {
		c.Flags().StringVar(&note.Comment, "comment", "", "why; it is kept")
	}
	return c
}

// campaignSum is a campaign's devices in short.
type campaignSum struct{ all, waiting, told, well, bad, skipped, undone int64 }

func sumCampaign(c *adminapi.Campaign, stage func(int) bool) (n campaignSum) {
	for _, m := range c.Members {
		if !stage(m.Stage) {
			continue
		}
		n.all += m.Members
		switch m.State {
		case "waiting":
			n.waiting += m.Members
		case "soaking", "done":
			n.well += m.Members
		case "failed", "rejected", "timed-out", "silent":
			n.bad += m.Members
		case "skipped":
			n.skipped += m.Members
		case "undone":
			n.undone += m.Members
		default:
			n.told += m.Members
		}
	}
	return n
}

func campaignCounts(c *adminapi.Campaign) campaignSum {
	return sumCampaign(c, func(int) bool { return true })
}

// campaignStages writes a line for each stage.
func campaignStages(w io.Writer, c *adminapi.Campaign) {
	rows := [][]string{}
	row := func(mark, name string, n campaignSum) {
		rows = append(rows, []string{mark, name, gaugeOf(n), fmt.Sprint(n.all), fmt.Sprint(n.waiting), fmt.Sprint(n.told), fmt.Sprint(n.well), fmt.Sprint(n.bad), fmt.Sprint(n.skipped), fmt.Sprint(n.undone)})
	}
	for i, g := range c.Plan {
		row(stageMark(c, i), g.Name, sumCampaign(c, func(s int) bool { return s == i }))
	}
	if rest := sumCampaign(c, func(s int) bool { return s < 0 }); rest.all > 0 {
		row(" ", "(in none yet)", rest)
	}
	table(w, []string{"", "STAGE", "", "DEVICES", "WAITING", "UNDER WAY", "WELL", "FAILED", "SKIPPED", "UNDONE"}, rows, "")
}

// stageMark says where a stage is: x over, w watched, > runs.
func stageMark(c *adminapi.Campaign, i int) string {
	switch {
	case i < c.Stage, i == c.Stage && c.State == "completed":
		return "x"
	case i > c.Stage || c.StageStarted.IsZero():
		return " "
	case !c.StageEnded.IsZero():
		return "w"
	}
	return ">"
}

// gaugeOf is a bar of twenty places: well, failed, under way. One device that failed
// has a place of its own, however many there are.
func gaugeOf(n campaignSum) string {
	if n.all == n.skipped {
		return strings.Repeat(".", 20)
	}
	of := func(k int64) int { return int(k * 20 / (n.all - n.skipped)) }
	bad := of(n.bad)
	if n.bad > 0 {
		bad = max(bad, 1)
	}
	well := min(of(n.well), 20-bad)
	told := min(of(n.told+n.undone), 20-bad-well)
	return strings.Repeat("#", well) + strings.Repeat("!", bad) + strings.Repeat("-", told) + strings.Repeat(".", max(0, 20-well-bad-told))
}

func newCampaignWatchCmd(g *globals) *cobra.Command {
	var every time.Duration
	c := &cobra.Command{
		Use: "watch CAMPAIGN", Short: "Follow a campaign until it is over", Args: cobra.ExactArgs(1),
		Long: `Shows stages, rate and failures as they change, until the campaign is over. On a terminal
the picture stays where it is; elsewhere each change is a line, with --json a JSON object.
A service that does not answer for a moment is asked again. Colours are left out if
NO_COLOR is set. The exit code is 1 if the campaign stopped itself or was cancelled, and 130 if a signal
ended the command.`,
		Example: "  hallmark campaign watch march\n  hallmark campaign watch march --json | jq .state",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			w := campaignWatch{g: g, live: !g.JSON && terminal(g.Out)}
			asked, answered := args[0], time.Now()
			for {
				c, err := g.campaign(ctx, asked)
				switch {
				case ctx.Err() != nil: // SIGINT or SIGTERM
					return errExit(exitInterrupted)
				case errors.Is(err, errAnswer) && time.Since(answered) < watchPatience && w.shown:
					w.lost()
				case err != nil:
					return err
				default:
					answered = time.Now()
					if err := w.show(c); err != nil {
						return err
					}
					switch {
					case c.State == "stopped" || c.State == "canceled" && !c.Active && !c.RolledBack:
						return errCampaignOver.New("It is %s. %s", c.State, c.Detail)
					case (c.State == "completed" || c.State == "canceled") && !c.Active:
						return nil
					}
				}
				select {
				case <-ctx.Done():
					return errExit(exitInterrupted)
				case <-time.After(every):
				}
			}
		},
	}
	c.Flags().DurationVar(&every, "every", time.Second, "time between two looks")
	return c
}

// exitInterrupted is what a shell says of a program that Ctrl-C ended.
const exitInterrupted = 130

// watchPatience is how long the service may be away while somebody watches.
const watchPatience = 2 * time.Minute

// campaignLine is a campaign in one line without times: it changes when something does.
func campaignLine(c *adminapi.Campaign) string {
	n := campaignCounts(c)
	stage := c.Plan[min(c.Stage, len(c.Plan)-1)].Name
	text := fmt.Sprintf("%s stage=%s devices=%d waiting=%d under-way=%d well=%d failed=%d skipped=%d undone=%d", c.State, stage, n.all, n.waiting, n.told, n.well, n.bad, n.skipped, n.undone)
	if c.Code != "" {
		text += " why=" + c.Code
	}
	return visible(text)
}
