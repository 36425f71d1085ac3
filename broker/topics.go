package broker

import "strings"

// checkTopic is the rule for a topic that somebody publishes to.
func (l *Limits) checkTopic(topic string) bool {
	if topic == "" || strings.ContainsAny(topic, "+#\x00") {
		return false
	}
	return l.fits(topic, "$aws/rules/")
}

// fits holds a topic or filter to the limits. The level after a prefix, and the
// prefix, do not count.
func (l *Limits) fits(topic, prefix string) bool {
	if rest, ok := strings.CutPrefix(topic, prefix); ok {
		if _, after, more := strings.Cut(rest, "/"); more {
			topic = after
		}
	}
	return len(topic) <= l.TopicBytes && strings.Count(topic, "/") <= l.TopicSlashes
}

// parsedFilter is a topic filter of a SUBSCRIBE.
type parsedFilter struct {
	sent   string // as the client wrote it: what policies see, and the key of the subscription
	filter string // without the part that makes it shared
	share  string // the group's name; empty if it is not shared
}

// parseFilter reads a filter. ok is false if the standard or a limit forbids it.
func (l *Limits) parseFilter(sent string) (f parsedFilter, ok bool) {
	f = parsedFilter{sent: sent, filter: sent}
	if rest, shared := strings.CutPrefix(sent, "$share/"); shared {
		// $share/NAME/FILTER: a name of at least one character without / + #, then a
		// filter [MQTT-4.8.2-1] [MQTT-4.8.2-2].
		f.share, f.filter, ok = strings.Cut(rest, "/")
		if !ok || f.share == "" || strings.ContainsAny(f.share, "+#") {
			return f, false
		}
	}
	if !validFilter(f.filter) || !l.fits(sent, "$share/") {
		return f, false
	}
	// Of the topics that begin with $ a client can only follow the service's answers
	// and events. Nothing is ever published to $aws/rules.
	if strings.HasPrefix(f.filter, "$") && !underReserved(f.filter) || strings.HasPrefix(f.filter, "$aws/rules/") {
		return f, false
	}
	return f, true
}

// validFilter is MQTT 5, Section 4.7.1: # is the last level, and wildcards stand
// alone in theirs [MQTT-4.7.1-1] [MQTT-4.7.1-2].
func validFilter(filter string) bool {
	if filter == "" || strings.Contains(filter, "\x00") {
		return false
	}
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		if len(level) > 1 && strings.ContainsAny(level, "+#") || level == "#" && more {
			return false
		}
	}
	return true
}

func wild(filter string) bool { return strings.ContainsAny(filter, "+#") }
