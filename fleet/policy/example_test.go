package policy_test

import (
	"fmt"

	"hallmark/fleet/policy"
)

// The broker parses the policies of a principal once, binds them to each of its
// connections, and asks for every packet.
func Example() {
	own, err := policy.Parse([]byte(`{
		"Version": "2012-10-17",
		"Statement": [
			{"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:eu-central-1:123456789012:client/${iot:Connection.Thing.ThingName}",
			 "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}},
			{"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": "arn:aws:iot:*:*:topic/hall/${iot:Connection.Thing.ThingName}/*"},
			{"Sid": "quiet", "Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/hall/*/alarm"}
		]
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	own.Name = "press"
	set := policy.Compile(own)

	ctx := policy.Context{ClientID: "press-7", Thing: policy.Thing{Name: "press-7", Attached: true}}
	bound := set.Bind(ctx)
	fmt.Println(bound.Allows(policy.Connect, "press-7"), bound.Allows(policy.Connect, "press-8"))
	fmt.Println(bound.Allows(policy.Publish, "hall/press-7/heat"), bound.Allows(policy.Publish, "hall/press-8/heat"))

	why := set.Explain(&ctx, policy.Publish, "hall/press-7/alarm")
	fmt.Println(why.Result, why.Policy, why.Statement, why.Sid)
	fmt.Println(set.Explain(&policy.Context{}, policy.Connect, "press-7").Missing)
	// Output:
	// true false
	// true false
	// EXPLICIT_DENY press 2 quiet
	// [iot:Connection.Thing.ThingName]
}
