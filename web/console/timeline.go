package console

import (
	"slices"

	"hallmark/api/adminapi"
	"hallmark/web"
)

// someEvents is how much of the timeline the page of one thing shows.
const someEvents = 8

// eventKinds are what a timeline is narrowed to.
var eventKinds = []string{"certificate", "rotation", "campaign", "job", "connection", "ownership", "thing"}

// eventRow is an event of a thing in words.
type eventRow struct {
	adminapi.ThingEvent
	Words string
	Tone  string
}

// eventWords says an event; the kind stands beside it.
func eventWords(e *adminapi.ThingEvent) string {
	words := map[string]string{
		"thing created": "Registered", "thing changed": "Last change in the registry",
		"certificate attached": "Certificate attached", "certificate ended": "Certificate ended",
		"rotation renewed": "Got a new certificate", "rotation retired": "Old certificate retired: its successor proved itself", "rotation held": "New certificate put on hold: it did not prove itself",
		"rotation kept": "New certificate kept: the device has no other", "rotation undone": "New certificate revoked: the device went back",
		"connection connected": "Connected", "connection disconnected": "Disconnected",
		"campaign waiting": "Waits for its turn", "campaign offered": "Offered the change", "campaign asleep": "Asleep: not seen since the offer", "campaign working": "Began", "campaign proving": "Says that it is done; not proven yet",
		"campaign soaking": "Proven", "campaign done": "Finished", "campaign failed": "Failed", "campaign rejected": "Refused it", "campaign timed-out": "Timed out", "campaign silent": "Fell silent",
		"campaign skipped": "Skipped", "campaign returning": "To be rolled back", "campaign undoing": "Told to go back", "campaign undone": "Rolled back",
		"job QUEUED": "Told", "job STARTED": "Began",
		"ownership released": "Released to another owner", "ownership handed-over": "The new owner accepted it", "ownership withdrawn": "The release was taken back", "ownership accepted": "Accepted from another owner",
		"ownership reset": "Reset: boots anew for the same owner", "ownership decommissioned": "Out of use for ever",
	}[e.Kind+" "+e.What]
	if words == "" {
		return e.What
	}
	return words
}

func eventTone(e *adminapi.ThingEvent) string {
	switch e.What {
	case "renewed", "retired", "connected", "soaking", "done", "SUCCEEDED":
		return "good"
	case "held", "undone", "ended", "failed", "rejected", "timed-out", "silent", "FAILED", "REJECTED", "TIMED_OUT":
		return "bad"
	}
	return "plain"
}

// events are a thing's latest events, the newest first, of one kind or all.
func (c *console) events(v *view, thing, kind string, limit int) ([]eventRow, error) {
	items, err := c.Backend.Things.ThingTimeline(v.r.Context(), v.scope, thing, web.MaxTimeline)
	if err != nil {
		return nil, err
	}
	var rows []eventRow
	for _, e := range slices.Backward(items) {
		if (kind == "" || e.Kind == kind) && len(rows) < limit {
			rows = append(rows, eventRow{e, eventWords(&e), eventTone(&e)})
		}
	}
	return rows, nil
}

// timeline is what happened to a thing.
func (c *console) timeline(v *view) (string, error) {
	name, kind := v.r.PathValue("thing"), v.r.URL.Query().Get("kind")
	if kind != "" && !slices.Contains(eventKinds, kind) {
		return "", web.ErrInput.New("There is no such kind of event.")
	}
	rows, err := c.events(v, name, kind, web.MaxTimeline)
	if err != nil {
		return "", err
	}
	v.Title = "Timeline of " + name
	v.Data = map[string]any{"Thing": name, "Items": rows, "Kind": kind, "Kinds": eventKinds, "Full": kind == "" && len(rows) == web.MaxTimeline, "See": v.sees()}
	return "timeline", nil
}
