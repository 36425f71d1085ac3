package console

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// act is one row of the table of what the console changes. The action is that of the
// API's route that does the same, so the same people may do it.
type act struct {
	Pattern string
	Action  access.Action
	// do does it, and gives the page to go to.
	do func(c *console, v *view, ctx context.Context) (to string, err error)
}

// acts is all that the console changes, apart from signing in and out: what goes on in
// the fleet is steered while one looks at it. Each is below the page that shows it.
var acts = []act{
	{"POST /console/campaigns/{campaign}/pause", access.ControlCampaign, steer(web.Campaigns.PauseCampaign)},
	{"POST /console/campaigns/{campaign}/resume", access.ControlCampaign, steer(web.Campaigns.ResumeCampaign)},
	{"POST /console/campaigns/{campaign}/cancel", access.ControlCampaign, steer(web.Campaigns.CancelCampaign)},
	{"POST /console/campaigns/{campaign}/rollback", access.ControlCampaign, steer(web.Campaigns.RollbackCampaign)},
	{"POST /console/campaigns/{campaign}/ask", access.CreateCampaign, steer(web.Campaigns.AskCampaign)},
	{"POST /console/campaigns/{campaign}/approve", access.DecideApproval, approve((*console).campaignRequest)},
	{"POST /console/campaigns/{campaign}/reject", access.DecideApproval, reject((*console).campaignRequest)},
	{"POST /console/firmware/{class}/{version}/approve", access.DecideApproval, approve((*console).firmwareRequest)},
	{"POST /console/firmware/{class}/{version}/reject", access.DecideApproval, reject((*console).firmwareRequest)},
	{"POST /console/firmware/{class}/{version}/withdraw", access.StopFirmware, (*console).withdrawFirmware},
	{"POST /console/trust/{rollover}/advance", access.RollRoots, roll(web.Bundles.AdvanceTrustRollover)},
	{"POST /console/trust/{rollover}/again", access.RollRoots, roll(web.Bundles.RetryTrustRollover)},
	{"POST /console/trust/{rollover}/cancel", access.RollRoots, roll(web.Bundles.CancelTrustRollover)},
}

const (
	maxForm    = 16 << 10
	maxComment = 512 // as in the contract of the API
)

// act is the way of every change: who, may they, from a page of ours, do it, and back
// to where it shows. It is in the trail as what the API does is, and so is what another
// site's page tried.
func (c *console) act(w http.ResponseWriter, r *http.Request, a *act) {
	back := backOf(r)
	v, ok := c.enter(w, r, a.Pattern, strings.Split(back, "/")[2], back)
	if !ok {
		return
	}
	var to string
	ctx := access.WithActor(r.Context(), v.Who.Actor())
	err := web.Recorded(ctx, c.Trail, r, v.Who, a.Action, func(ctx context.Context) (err error) {
		if err := access.Require(v.Who.Actor(), a.Action); err != nil {
			return err
		}
		if err := c.origin.Check(r); err != nil {
			return web.ErrCrossOrigin.Wrap(err, "")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return web.ErrBody.Wrap(err, "")
		}
		if !c.sessions.ours(r, r.PostForm.Get("form")) {
			return web.ErrCrossOrigin.New("The form is not one of this session.")
		}
		to, err = a.do(c, v, ctx)
		return err
	})
	if err != nil {
		c.fail(w, r, v, err)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// note puts the digest of what is asked for into the trail: that of the same request
// to the API.
func note(ctx context.Context, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		return
	}
	sum := sha256.Sum256(data)
	access.RecordFrom(ctx).Note(func(e *access.TrailEntry) { e.Body = hex.EncodeToString(sum[:]) })
}

// comment is what somebody wrote about what they do.
func (v *view) comment() (string, error) {
	text := v.r.PostForm.Get("comment")
	if len(text) > maxComment {
		return "", web.ErrInput.New("The comment is longer than %d octets.", maxComment)
	}
	return text, nil
}

// backOf is the page that the form of an act is on: its patterns are one part longer.
func backOf(r *http.Request) string {
	at := r.URL.EscapedPath()
	return at[:strings.LastIndexByte(at, '/')]
}

func (v *view) back() string { return backOf(v.r) }

// steer is a change of a campaign's state.
func steer(move func(web.Campaigns, context.Context, access.Actor, string, adminapi.CampaignNote) (adminapi.Campaign, error)) func(*console, *view, context.Context) (string, error) {
	return func(c *console, v *view, ctx context.Context) (string, error) {
		text, err := v.comment()
		if err != nil {
			return "", err
		}
		n := adminapi.CampaignNote{Comment: text}
		note(ctx, n)
		_, err = move(c.Backend.Campaigns, ctx, v.Who.Actor(), v.r.PathValue("campaign"), n)
		return v.back(), err
	}
}

// roll is a step of a root rollover.
func roll(move func(web.Bundles, context.Context, access.Actor, string, adminapi.CampaignNote) (adminapi.TrustRollover, error)) func(*console, *view, context.Context) (string, error) {
	return func(c *console, v *view, ctx context.Context) (string, error) {
		text, err := v.comment()
		if err != nil {
			return "", err
		}
		n := adminapi.CampaignNote{Comment: text}
		note(ctx, n)
		_, err = move(c.Backend.Bundles, ctx, v.Who.Actor(), v.r.PathValue("rollover"), n)
		return v.back(), err
	}
}

func (c *console) withdrawFirmware(v *view, ctx context.Context) (string, error) {
	_, err := c.Backend.Firmware.WithdrawFirmware(ctx, v.Who.Actor(), v.r.PathValue("class"), v.r.PathValue("version"))
	return v.back(), err
}

// campaignRequest is the approval request that the campaign of a form waits for now.
func (c *console) campaignRequest(v *view, ctx context.Context) (string, error) {
	p, err := c.Backend.Campaigns.Campaign(ctx, v.scope, v.r.PathValue("campaign"))
	return waitsFor(p.State, p.Request, err)
}

// firmwareRequest is that of firmware.
func (c *console) firmwareRequest(v *view, ctx context.Context) (string, error) {
	a, err := c.Backend.Firmware.Firmware(ctx, v.scope, v.r.PathValue("class"), v.r.PathValue("version"))
	return waitsFor(a.State, a.Request, err)
}

func waitsFor(state, request string, err error) (string, error) {
	if err == nil && (state != "awaiting-approval" || request == "") {
		err = web.ErrInput.New("It does not wait for anybody: it is %s.", state)
	}
	return request, err
}

// approve approves what was looked at: the form carries its hash.
func approve(of func(*console, *view, context.Context) (string, error)) func(*console, *view, context.Context) (string, error) {
	return func(c *console, v *view, ctx context.Context) (string, error) {
		request, err := of(c, v, ctx)
		if err != nil {
			return "", err
		}
		web.NoteApproval(ctx, request)
		d := adminapi.ApprovalDecision{Plan: v.r.PostForm.Get("plan")}
		if raw, err := hex.DecodeString(d.Plan); err != nil || len(raw) != sha256.Size {
			return "", web.ErrInput.New("The form does not say what was looked at.")
		}
		note(ctx, d)
		_, err = c.Backend.Plans.Approve(ctx, v.Who.Actor(), request, d)
		return v.back(), err
	}
}

func reject(of func(*console, *view, context.Context) (string, error)) func(*console, *view, context.Context) (string, error) {
	return func(c *console, v *view, ctx context.Context) (string, error) {
		text, err := v.comment()
		if err != nil {
			return "", err
		}
		request, err := of(c, v, ctx)
		if err != nil {
			return "", err
		}
		web.NoteApproval(ctx, request)
		d := adminapi.ApprovalRejection{Note: text}
		note(ctx, d)
		_, err = c.Backend.Plans.Reject(ctx, v.Who.Actor(), request, d)
		return v.back(), err
	}
}
