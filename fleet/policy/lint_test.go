package policy

import "testing"

// The cases of section 8.1, and what lies beside them.
func TestOverbroad_FindsWhatTheAuditChecks(t *testing.T) {
	const thing, attached = "${iot:Connection.Thing.ThingName}", `{"Bool":{"iot:Connection.Thing.IsAttached":"true"}}`
	for _, row := range []struct {
		doc, reason string // of the first finding, or ""
	}{
		{document(allow("iot:Connect", "client/*")), ReasonBroadAccess},
		{document(allow("iot:Connect", "*")), ReasonBroadAccess},
		{document(allow("iot:*", "client/a?")), ReasonBroadAccess},
		{document(allow("iot:Connect", "client/${iot:ClientId}")), ReasonBroadAccess},
		{document(when(allow("iot:Connect", "client/${iot:ClientId}"), attached)), ""},
		{document(when(allow("iot:Connect", "client/${iot:ClientId}"), `{"Bool":{"iot:Connection.Thing.IsAttached":["true","false"]}}`)), ReasonBroadAccess},
		{document(when(allow("iot:Connect", "client/*"), attached)), ReasonBroadAccess},
		{document(allow("iot:Connect", "client/"+thing)), ""},
		{document(allow("iot:Connect", "client/"+thing+"-*")), ""}, // thing + -n (S25)
		{document(allow("iot:Connect", "client/press-7")), ""},
		{document(allow("iot:Publish", "topic/$aws/things/*")), ReasonBroadAccess},
		{document(allow("iot:Publish", "topic/$aws/things/*/shadow/update")), ReasonBroadAccess},
		{document(allow("iot:RetainPublish", "topic/$aws/*")), ReasonBroadAccess},
		{document(allow("iot:Publish", "topic/*/shadow/update")), ReasonBroadAccess},
		{document(allow("iot:Publish", "topic/$aws/things/a*/shadow")), ReasonBroadAccess},
		{document(allow("iot:Publish", "topic/$aws/things/"+thing+"*")), ReasonBroadAccess}, // press-7 is also the start of press-70
		{document(allow("iot:Publish", "topic/$aws/things/"+thing+"/shadow/*")), ""},
		{document(allow("iot:Publish", "topic/telemetry/*")), ""},
		{document(allow("iot:Publish", "topicfilter/$aws/things/*")), ""}, // no topic is matched
		{document(allow("iot:Subscribe", "topicfilter/$aws/things/*")), ReasonBroadAccess},
		{document(allow("iot:Subscribe", "topicfilter/$aws/things/#")), ReasonBroadAccess},
		{document(allow("iot:Subscribe", "topicfilter/$aws/things/+/shadow/update")), ReasonBroadAccess},
		{document(allow("iot:Publish", "topic/$aws/things/+/shadow/update")), ""}, // literal, and no topic
		{document(allow("iot:Subscribe", "topicfilter/$aws/things/"+thing+"/shadow/*")), ""},
		{document(allow("iot:Receive", "topic/$aws/things/*")), ""},
		{document(allow("iot:Receive", "*")), ""},
		{document(allow("iot:GetThingShadow", "thing/*")), ReasonBroadAccess},
		{document(allow("iotjobsdata:*", "thing/*")), ReasonBroadAccess},
		{document(allow("iot:UpdateJobExecution", "thing/"+thing)), ""},
		{document(allow("iot:GetThingShadow", "thing/MyThing1", "thing/MyThing2/*")), ""},
		{document(allow("*", "*")), ReasonBroadAccess},
		{document(`{"Effect":"Allow","Action":"iot:Publish","NotResource":"topic/a"}`), ReasonBroadAccess},
		{document(`{"Effect":"Allow","Action":"iot:Receive","NotResource":"topic/a"}`), ""},
		{document(deny("*", "*"), `{"Effect":"Deny","Action":"*","NotResource":"topic/a/#"}`), ""},

		{document(allow("iot:Subscribe", "topicfilter/building/*"), deny("iot:Subscribe", "topicfilter/building/control_room/#"), allow("iot:Receive", "topic/building/*")), ReasonWildcardsInDeny},
		{document(deny("iot:Publish", "topic/a/+/b")), ReasonWildcardsInDeny},
		{document(deny("iot:Publish", "topic/a+b/c#")), ""},
		{document(allow("iot:Subscribe", "topicfilter/building/*"), deny("iot:Subscribe", "topicfilter/building/control_room/*"), allow("iot:Receive", "topic/building/*")), ReasonFilterAroundDeny},
		{document(allow("iot:Subscribe", "topicfilter/+/control_room/x"), deny("iot:Subscribe", "topicfilter/building/control_room/x")), ReasonFilterAroundDeny},
		{document(allow("iot:Subscribe", "topicfilter/building/*"), deny("iot:Subscribe", "topicfilter/building/control_room/*"), allow("iot:Receive", "topic/building/*"), deny("iot:Receive", "topic/building/control_room/*")), ""},
		{document(allow("iot:Subscribe", "topicfilter/building/lobby/*"), deny("iot:Subscribe", "topicfilter/building/control_room/*")), ""},
		{document(allow("iot:Subscribe", "topicfilter/own/*"), deny("iot:Subscribe", "topicfilter/own/"+thing+"/secret")), ReasonFilterAroundDeny},
	} {
		got := Overbroad(parse(t, row.doc))
		reason := ""
		if len(got) > 0 {
			reason = got[0].Reason
		}
		if reason != row.reason {
			t.Errorf("%v, want %q\n%s", got, row.reason, row.doc)
		}
	}
	f := Overbroad(parse(t, document(allow("iot:Receive", "*"), `{"Sid":"own","Effect":"Allow","Action":"iot:Connect","Resource":["client/a","client/*"]}`)))
	if len(f) != 1 || f[0] != (Finding{CheckOverlyPermissive, ReasonBroadAccess, 1, "own", "client/*"}) {
		t.Errorf("%+v", f)
	}
}
