package policy

import (
	"slices"
	"strings"
)

// The audit checks about policies and the codes of their reasons, as on the
// wire.
const (
	CheckOverlyPermissive = "IOT_POLICY_OVERLY_PERMISSIVE_CHECK"
	CheckMisconfiguration = "IOT_POLICY_POTENTIAL_MISCONFIGURATION_CHECK"

	ReasonBroadAccess      = "ALLOWS_BROAD_ACCESS_TO_IOT_DATA_PLANE_ACTIONS"
	ReasonWildcardsInDeny  = "POLICY_CONTAINS_MQTT_WILDCARDS_IN_DENY_STATEMENT"
	ReasonFilterAroundDeny = "TOPIC_FILTERS_INTENDED_TO_DENY_ALLOWED_USING_WILDCARDS"
)

// Finding is something about a document that its author probably did not mean.
type Finding struct {
	Check     string
	Reason    string
	Statement int    // its place in the document, from 0
	Sid       string // may be empty
	Resource  string // as written; empty where the statement's NotResource is meant
}

// Overbroad checks a document as the audit does, without knowing who has it.
// It finds
//
//   - an Allow of data plane actions that ranges over things: a wildcard where
//     a client id, or a thing's name in $aws/things/ or thing/, stands, + and #
//     included where a filter is named; client/${iot:ClientId} without the
//     condition IsAttached; and every NotResource. Receive is left out, since
//     nothing is received that was not subscribed to.
//   - a Deny with MQTT's wildcards in it, which are literal there
//   - a Deny of filters that a wider filter goes around: a/* allowed and
//     a/secret/* denied lets a/# pass, unless Receive is denied as well.
func Overbroad(d *Document) []Finding {
	var out []Finding
	for i := range d.statements {
		s := &d.statements[i]
		add := func(check, reason, resource string) {
			out = append(out, Finding{check, reason, i, s.sid, resource})
		}
		switch {
		case s.deny && s.not:
		case s.deny:
			for _, r := range s.resources {
				if mqttWildcard(r.name) {
					add(CheckMisconfiguration, ReasonWildcardsInDeny, r.raw)
				} else if s.actions&setOf(Subscribe) != 0 && d.passable(r.name) {
					add(CheckMisconfiguration, ReasonFilterAroundDeny, r.raw)
				}
			}
		case s.not:
			if s.actions&dataPlane != 0 {
				add(CheckOverlyPermissive, ReasonBroadAccess, "")
			}
		default:
			for _, r := range s.resources {
				if s.broad(r.name) {
					add(CheckOverlyPermissive, ReasonBroadAccess, r.raw)
				}
			}
		}
	}
	return out
}

// dataPlane are the actions that the check is about, Receive excepted.
var (
	shadowsAndJobs = setOf(GetThingShadow, UpdateThingShadow, DeleteThingShadow, DescribeJobExecution, GetPendingJobExecutions, UpdateJobExecution, StartNextPendingJobExecution)
	publishing     = setOf(Publish, RetainPublish)
	dataPlane      = setOf(Connect, Subscribe) | publishing | shadowsAndJobs
)

// broad tells whether an allowed resource ranges over things.
func (s *statement) broad(name text) bool {
	if name.all() {
		return s.actions&dataPlane != 0
	}
	return s.actions&setOf(Connect) != 0 && s.anyClient(name) ||
		s.actions&publishing != 0 && ranges(name, "topic/$aws/things/", false) ||
		s.actions&setOf(Subscribe) != 0 && ranges(name, "topicfilter/$aws/things/", true) ||
		s.actions&shadowsAndJobs != 0 && ranges(name, "thing/", false)
}

// anyClient tells whether a device may connect under another's client id. A
// wildcard behind the thing's own name is how one thing has several (S25).
func (s *statement) anyClient(name text) bool {
	for _, rest := range name.after(kindPrefix[kindClient]) {
		own, claimed := false, false
		for _, tok := range rest {
			switch {
			case tok.kind == hole && tok.v.from == fromClientID:
				claimed = true
			case tok.kind == hole:
				own = true
			case tok.kind != literal && !own:
				return true
			}
		}
		if claimed && !own && !s.wantsAttached() {
			return true
		}
	}
	return false
}

// wantsAttached tells whether the statement acts only for a certificate that
// is attached to the connection's thing.
func (s *statement) wantsAttached() bool {
	for _, c := range s.conds {
		if c.op != opBool || c.key.from != fromThingAttached || c.set == forAll || len(c.operands) == 0 {
			continue
		}
		attached := true
		for _, o := range c.operands {
			yes, _ := boolean(o.text.String())
			attached = attached && o.static && yes
		}
		if attached {
			return true
		}
	}
	return false
}

// ranges tells whether the level behind prefix, a thing's name, is open.
func ranges(name text, prefix string, filters bool) bool {
	for _, rest := range name.after(prefix) {
		var level strings.Builder
	walk:
		for _, tok := range rest {
			switch tok.kind {
			case star, one:
				return true
			case hole:
				level.WriteByte('v') // its value is no wildcard
			default:
				before, _, ended := strings.Cut(tok.lit, "/")
				if level.WriteString(before); ended {
					break walk
				}
			}
		}
		if l := level.String(); filters && (l == "+" || l == "#") {
			return true
		}
	}
	return false
}

// mqttWildcard tells whether a whole level is + or #, in the document's own
// text.
func mqttWildcard(name text) bool {
	for level := range strings.SplitSeq(name.fill(sample).shape(), "/") {
		if level == "+" || level == "#" {
			return true
		}
	}
	return false
}

// shape writes a text without variables with its wildcards as x.
func (t text) shape() string {
	var b strings.Builder
	for _, tok := range t {
		if b.WriteString(tok.lit); tok.kind != literal {
			b.WriteByte('x')
		}
	}
	return b.String()
}

// sample is a connection for which every variable has the same value, one that
// no document is likely to name.
var sample samples

type samples struct{}

func (samples) value(variable) string { return "any-device-at-all" }

// passable tells whether the document lets a device subscribe to a filter with
// wildcards that covers a topic which name denies, and does not deny it to
// receive that topic. Conditions are taken as met.
func (d *Document) passable(name text) bool {
	if name.all() {
		return false
	}
	var rules []rule
	for i := range d.statements {
		c := Partition{}.compile(&d.statements[i])
		rules = append(rules, c.fill(sample))
	}
	for _, rest := range name.fill(sample).after(kindPrefix[kindFilter]) {
		topic := rest.shape()
		if applies(rules, true, Receive, topic) {
			continue
		}
		for _, filter := range wider(topic) {
			if applies(rules, false, Subscribe, filter) && !applies(rules, true, Subscribe, filter) {
				return true
			}
		}
	}
	return false
}

// applies tells whether one of the rules with that effect is about the question.
func applies(rules []rule, deny bool, action Action, resource string) bool {
	return slices.ContainsFunc(rules, func(r rule) bool {
		return r.deny == deny && r.actions&(1<<action) != 0 && r.matches(actions[action].kind, resource)
	})
}

// wider lists filters that match a topic: # after each of its levels, and + in
// place of each.
func wider(topic string) []string {
	levels := strings.Split(topic, "/")
	var out []string
	for i, level := range levels {
		if i == 0 && strings.HasPrefix(topic, "$") {
			continue // MQTT-4.7.2-1: a wildcard at the start matches no $ topic
		}
		above := strings.Join(levels[:i], "/")
		if i > 0 {
			above += "/"
		}
		levels[i] = "+"
		out = append(out, above+"#", strings.Join(levels, "/"))
		levels[i] = level
	}
	return out
}
