package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// rollouts finds the campaigns that bring firmware, newest first; of one version if a
// class is named. A list of thousands of campaigns is looked through as far as it says.
func (c *console) rollouts(v *view, class, version string) (out []campaignRow, err error) {
	if !v.can(access.ReadCampaigns) {
		return nil, nil
	}
	p := web.Page{Limit: 250}
	for range 8 {
		items, next, err := c.Backend.Campaigns.Campaigns(v.r.Context(), v.scope, "", p)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			var of struct{ Class, Version string }
			if item.Kind != "update-firmware" || json.Unmarshal([]byte(item.Parameters), &of) != nil || class != "" && (of.Class != class || of.Version != version) {
				continue
			}
			r := campaignRowOf(item)
			r.Brings = strings.TrimSpace(of.Class + " " + of.Version)
			out = append(out, r)
		}
		if p.After = next; next == "" {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b campaignRow) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out, nil
}

func anyActive(rows []campaignRow) bool {
	return slices.ContainsFunc(rows, func(r campaignRow) bool { return r.Active })
}

func (c *console) firmware(v *view) (string, error) {
	v.Title = "Firmware"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	class := v.r.URL.Query().Get("class")
	items, next, err := c.Backend.Firmware.FirmwareList(v.r.Context(), v.scope, class, p)
	if err != nil {
		return "", err
	}
	rows, err := c.rollouts(v, "", "")
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "Class": class, "Rollouts": rows, "Live": anyActive(rows), "See": v.sees(), "Acts": v.can(access.PublishFirmware), "Starts": v.can(access.CreateCampaign)}
	return "firmware", err
}

func (c *console) firmwareVersion(v *view) (string, error) {
	item, err := c.Backend.Firmware.Firmware(v.r.Context(), v.scope, v.r.PathValue("class"), v.r.PathValue("version"))
	if err != nil {
		return "", err
	}
	v.Title = item.Class + " " + item.Version
	var two *second
	if item.State == "awaiting-approval" {
		if two, err = c.second(v, item.Request, access.PublishFirmware); err != nil {
			return "", err
		}
		two.Until, two.Then = "No device gets it", "No device gets it by this alone: a campaign does."
	}
	rows, err := c.rollouts(v, item.Class, item.Version)
	v.Data = map[string]any{"Firmware": item, "Expired": !c.Now().Before(item.ExpiresAt), "Second": two, "Rollouts": rows, "Live": anyActive(rows), "See": v.sees(),
		"Stops": v.can(access.StopFirmware) && item.State != "withdrawn", "Starts": v.can(access.CreateCampaign) && item.State == "released"}
	return "firmware-version", err
}

// phases are those of a root rollover, in words.
var phases = []struct{ name, title, words string }{
	{"adding", "Adding", "Devices get the new root beside the old one."},
	{"switching", "Switching", "People have the service issue and show what leads to the new root."},
	{"waiting", "Waiting", "Both are trusted, and the new one is used."},
	{"removing", "Removing", "Devices that confirmed the new root lose the old one."},
	{"sleepers", "Sleepers", "Who returns late still gets both changes."},
	{"done", "Done", "Nothing of it goes on."},
}

// phaseView is a phase and the gate after it.
type phaseView struct {
	Title, Words string
	State        string // ended, now, to come, not reached
	Gate         string // what the gate after it asks for
}

func phaseViews(r *adminapi.TrustRollover) (out []phaseView) {
	g := &r.Gates
	gates := map[string]string{
		"adding":    fmt.Sprintf("%g %% of the fleet trust %s", g.Added, r.To),
		"switching": "everything that is shown or issued leads to " + r.To,
		"waiting":   fmt.Sprintf("%s, and %g %% trust %s", left(time.Duration(g.WaitSeconds)*time.Second), g.Left, r.To),
		"removing":  fmt.Sprintf("%g %% trust %s no more", g.Removed, r.From),
		"sleepers":  "nobody is left, or " + left(time.Duration(g.KeepSeconds)*time.Second),
	}
	reached := map[string]bool{"adding": true}
	for _, s := range r.Steps {
		reached[s.What] = true
	}
	for _, p := range phases {
		s := phaseView{Title: p.title, Words: p.words, Gate: gates[p.name], State: "to come"}
		switch {
		case p.name == r.Phase && p.name != "done":
			s.State = "now"
		case reached[p.name]:
			s.State = "ended"
		case r.Phase == "canceled":
			s.State = "not reached"
		}
		out = append(out, s)
	}
	return out
}

// confirmedView is how many devices confirmed what the phase is about, and the mark that
// the gate asks for.
type confirmedView struct {
	Confirmed, Of int64
	Width, Mark   string // "" is no mark
	Percent       float64
}

func confirmed(r *adminapi.TrustRollover) *confirmedView {
	s := &confirmedView{Confirmed: r.Confirmed, Of: r.Things - r.Without, Width: share(r.Confirmed, max(1, r.Things-r.Without))}
	switch r.Phase {
	case "adding":
		s.Percent = r.Gates.Added
	case "waiting":
		s.Percent = r.Gates.Left
	case "removing":
		s.Percent = r.Gates.Removed
	}
	if s.Percent > 0 {
		s.Mark = fmt.Sprintf("%.1f", min(barWidth-4, barWidth*s.Percent/100))
	}
	return s
}

func (c *console) trust(v *view) (string, error) {
	v.Title = "Roots of devices"
	ctx := v.r.Context()
	state, err := c.Backend.Bundles.TrustState(ctx, v.scope)
	if err != nil {
		return "", err
	}
	items, err := c.Backend.Bundles.TrustRollovers(ctx, v.scope)
	slices.SortStableFunc(items, func(a, b adminapi.TrustRollover) int { return b.Since.Compare(a.Since) })
	v.Data = map[string]any{"State": state, "Items": items, "Acts": v.can(access.RollRoots), "See": v.sees()}
	return "trust", err
}

func (c *console) rootRollover(v *view) (string, error) {
	item, err := c.Backend.Bundles.TrustRollover(v.r.Context(), v.scope, v.r.PathValue("rollover"))
	if err != nil {
		return "", err
	}
	v.Title = "Rollover " + item.Name
	var campaigns []campaignRow
	if v.can(access.ReadCampaigns) {
		for _, id := range item.Campaigns {
			one, err := c.Backend.Campaigns.Campaign(v.r.Context(), v.scope, id)
			if err != nil {
				continue // it is made soon after the rollover
			}
			campaigns = append(campaigns, campaignRowOf(one))
		}
	}
	item.Steps = slices.Clone(item.Steps)
	slices.Reverse(item.Steps) // the newest first
	over := item.Phase == "done" || item.Phase == "canceled"
	data := map[string]any{"Rollover": item, "Phases": phaseViews(&item), "Campaigns": campaigns, "Over": over, "Live": !over, "See": v.sees(), "Controls": rollControls(v, &item)}
	if !over {
		data["Confirmed"] = confirmed(&item)
	}
	v.Data = data
	return "trust-rollover", nil
}

// rollControls are what somebody can do about a rollover now.
func rollControls(v *view, r *adminapi.TrustRollover) (out []control) {
	if !v.can(access.RollRoots) || r.Phase == "done" || r.Phase == "canceled" {
		return nil
	}
	if r.Open {
		out = append(out, control{"advance", "Pass the gate to " + r.Next, "Every device is counted once more; the gate is passed only if its threshold is still reached. There is no way back to the phase before.", true})
	}
	if r.Phase == "adding" || r.Phase == "removing" || r.Phase == "sleepers" {
		out = append(out, control{"again", "Another campaign", "Devices that failed in this phase are told again, by a new campaign; the one before is cancelled.", true})
	}
	return append(out, control{"cancel", "Cancel", "Its campaigns end. What devices trust stays as it is: both roots, if they have both.", true})
}
