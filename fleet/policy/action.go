package policy

import (
	"slices"
	"strings"

	"hallmark/internal/strictjson"
)

// Action is what a device wants to do.
type Action uint8

// The actions. The comment names the resource that is asked about.
const (
	_                            Action = iota // so that an unset action is none
	Connect                                    // client id
	Publish                                    // topic; also for a will, at CONNECT
	Receive                                    // topic of each delivery
	RetainPublish                              // topic, with Publish, where RETAIN is set
	GetRetainedMessage                         // topic
	Subscribe                                  // topic filter as sent, $share/ included
	GetThingShadow                             // thing, or thing/shadow name; over HTTPS only, as the next five
	UpdateThingShadow                          // thing, or thing/shadow name
	DeleteThingShadow                          // thing, or thing/shadow name
	ListNamedShadowsForThing                   // nothing: only the resource * allows it
	ListRetainedMessages                       // nothing
	DescribeJobExecution                       // thing; over HTTPS only, as the next three
	GetPendingJobExecutions                    // thing
	UpdateJobExecution                         // thing
	StartNextPendingJobExecution               // thing
	AssumeRoleWithCertificate                  // role alias
	numActions
)

// kind is the type of a resource: what stands before its first slash.
type kind uint8

const (
	kindNone kind = iota
	kindClient
	kindTopic
	kindFilter
	kindThing
	kindRoleAlias
	numKinds
)

var kindPrefix = [numKinds]string{"", "client/", "topic/", "topicfilter/", "thing/", "rolealias/"}

// nothing is the resource of actions that have none.
const nothing = "*"

// actions gives each action its names in documents, the present one first, and
// the type of its resource.
var actions = [numActions]struct {
	names []string
	kind  kind
}{
	Connect:                      {[]string{"iot:Connect"}, kindClient},
	Publish:                      {[]string{"iot:Publish"}, kindTopic},
	Receive:                      {[]string{"iot:Receive"}, kindTopic},
	RetainPublish:                {[]string{"iot:RetainPublish"}, kindTopic},
	GetRetainedMessage:           {[]string{"iot:GetRetainedMessage"}, kindTopic},
	Subscribe:                    {[]string{"iot:Subscribe"}, kindFilter},
	GetThingShadow:               {[]string{"iot:GetThingShadow"}, kindThing},
	UpdateThingShadow:            {[]string{"iot:UpdateThingShadow"}, kindThing},
	DeleteThingShadow:            {[]string{"iot:DeleteThingShadow"}, kindThing},
	ListNamedShadowsForThing:     {[]string{"iot:ListNamedShadowsForThing"}, kindNone},
	ListRetainedMessages:         {[]string{"iot:ListRetainedMessages"}, kindNone},
	DescribeJobExecution:         {[]string{"iotjobsdata:DescribeJobExecution", "iot:DescribeJobExecution"}, kindThing},
	GetPendingJobExecutions:      {[]string{"iotjobsdata:GetPendingJobExecutions", "iot:GetPendingJobExecutions"}, kindThing},
	UpdateJobExecution:           {[]string{"iotjobsdata:UpdateJobExecution", "iot:UpdateJobExecution"}, kindThing},
	StartNextPendingJobExecution: {[]string{"iotjobsdata:StartNextPendingJobExecution", "iot:StartNextPendingJobExecution"}, kindThing},
	AssumeRoleWithCertificate:    {[]string{"iot:AssumeRoleWithCertificate"}, kindRoleAlias},
}

func (a Action) known() bool { return a > 0 && a < numActions }

// String is the action's name in documents, such as iot:Publish.
func (a Action) String() string {
	if !a.known() {
		return "none"
	}
	return actions[a].names[0]
}

// ParseAction finds an action by its name in documents, the older names of the
// job actions included.
func ParseAction(name string) (Action, error) {
	for a := Connect; a < numActions; a++ {
		if slices.Contains(actions[a].names, name) {
			return a, nil
		}
	}
	return 0, ErrAction.New("%s%s.", strictjson.Quote(name), perhaps(name, actionNames()))
}

func actionNames() []string {
	var names []string
	for _, a := range actions {
		names = append(names, a.names...)
	}
	return names
}

// actionSet has the bit 1<<a for each action a.
type actionSet uint32

const everyAction actionSet = 1<<numActions - 1<<Connect

func setOf(list ...Action) actionSet {
	var s actionSet
	for _, a := range list {
		s |= 1 << a
	}
	return s
}

// parseActions reads Action or NotAction. A pattern that no action matches is
// refused: a Deny that was misspelt would never be noticed.
func parseActions(items []item) (actionSet, error) {
	var set actionSet
	for _, it := range items {
		name, ok := it.value.(string)
		if !ok {
			return 0, at(ErrStructure, it.path, "want a string, not %s", kindOf(it.value))
		}
		pattern, err := parseText(strings.ReplaceAll(name, "$", "${$}"), true, it.path) // actions have no variables
		if err != nil {
			return 0, err
		}
		g, found := compileGlob(pattern), actionSet(0)
		for a := Connect; a < numActions; a++ {
			if slices.ContainsFunc(actions[a].names, g.match) {
				found |= 1 << a
			}
		}
		if found == 0 {
			return 0, at(ErrAction, it.path, "there is no action %s%s", strictjson.Quote(name), perhaps(name, actionNames()))
		}
		set |= found
	}
	return set, nil
}
