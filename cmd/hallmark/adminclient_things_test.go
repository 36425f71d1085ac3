package main

import (
	"encoding/json"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

func TestThingCommands_ShowAndDo(t *testing.T) {
	c := newCLI(t)
	for _, x := range []struct {
		role  access.Role
		args  string
		code  int
		shows string
	}{
		{access.FleetOperator, "thing search thingName:" + webtest.Unit, 0, webtest.Unit},
		{access.FleetOperator, "thing search thingName:x", 0, "No thing fits"},
		{access.Auditor, "things list --silent-for 30m", 0, "2"},
		{access.Auditor, "thing list --silent-for 30d", 0, "No thing is silent that long"},
		{access.FleetOperator, "thing create X-1 --attribute color=red", 0, "color = red"},
		{access.FleetOperator, "thing update " + webtest.Unit + " --remove-attribute site --attribute color=", 0, webtest.Unit},
		{access.FleetOperator, "thing delete " + webtest.Unit + " --version 1", 0, webtest.Unit + " is deleted"},
		{access.Auditor, "thing principals " + webtest.Unit, 0, webtest.Serial(101)},
		{access.SecurityOfficer, "thing attach " + webtest.Unit + " " + webtest.FleetID + " --take-over", 0, webtest.Unit},
		{access.FleetOperator, "thing detach " + webtest.Unit + " " + webtest.FleetID, 0, webtest.Unit},
		{access.Auditor, "thing-type list", 0, webtest.ThingType},
		{access.FleetOperator, "thing-type create t2 --searchable a,b --tag k=v", 0, "k = v"},
		{access.Auditor, "thing-type show " + webtest.ThingType, 0, "model"},
		{access.FleetOperator, "thing-type deprecate " + webtest.ThingType, 0, "deprecated"},
		{access.FleetOperator, "thing-type delete " + webtest.ThingType, 0, "is deleted"},
		{access.Auditor, "thing-group list", 0, "connectivity.connected:false"},
		{access.Auditor, "thing-groups list --limit 1", 0, "there are more"},
		{access.Auditor, "thing-group list --prefix none", 0, "hallmark thing-group create"},
		{access.Auditor, "thing-group show " + webtest.Group, 0, "everything that shines"},
		{access.FleetOperator, "thing-group create red --query attributes.color:red", 0, "attributes.color:red"},
		{access.FleetOperator, "thing-group update " + webtest.Group + " --description x --no-tags", 0, "x"},
		{access.Auditor, "thing-group things " + webtest.Group + " --nested", 0, webtest.Unit},
		{access.FleetOperator, "thing-group add " + webtest.Group + " " + webtest.Unit, 0, webtest.Unit + " is in " + webtest.Group},
		{access.FleetOperator, "thing-group remove " + webtest.Group + " " + webtest.Unit, 0, webtest.Unit + " is not in " + webtest.Group},
		{access.FleetOperator, "thing-group delete " + webtest.Group, 0, "is deleted"},
		{access.Auditor, "billing-group list", 0, webtest.BillingGroup},
		{access.Auditor, "billing-group things " + webtest.BillingGroup, 0, webtest.Unit},
		{access.FleetOperator, "billing-group create paris --tag cost=7", 0, "cost = 7"},
		{access.FleetOperator, "billing-group delete " + webtest.BillingGroup, 0, "is deleted"},
		// Refusals say what to do next and end with 1, mistakes with 2.
		{access.FleetOperator, "thing attach " + webtest.Unit + " " + webtest.FleetID + " --take-over", 1, "action-forbidden"},
		{access.FleetOperator, "thing-group add " + webtest.Group + " " + webtest.Unit + " none", 1, "1 of 2 things done"},
		{access.Auditor, "thing create X-1", 1, "next:"},
		{access.Auditor, "thing delete none", 1, "action-forbidden"},
		{access.Auditor, "thing-group delete " + webtest.Group, 1, "action-forbidden"},
		{access.Auditor, "thing search", 2, "accepts 1 arg"},
		{access.Auditor, "thing list --silent-for 0s", 2, "is not a time"},
		{access.Auditor, "thing list --silent-for d", 2, "is not a time"},
		{access.FleetOperator, "thing update " + webtest.Unit, 2, "nothing to change"},
		{access.FleetOperator, "thing update " + webtest.Unit + " --type a --no-type", 2, "do not go together"},
		{access.FleetOperator, "thing create X-1 --attribute =x", 2, "NAME=VALUE"},
		{access.FleetOperator, "thing-group add " + webtest.Group, 2, "requires at least"},
		{access.FleetOperator, "thing-group update " + webtest.Group, 2, "nothing to change"},
		{access.FleetOperator, "thing-group update " + webtest.Group + " --tag a=b --no-tags", 2, "do not go together"},
		{access.FleetOperator, "billing-group create x --query *", 2, "unknown flag"},
	} {
		code, out, errOut := c.run(x.role, "", strings.Fields(x.args)...)
		if code != x.code || !strings.Contains(out+errOut, x.shows) {
			t.Errorf("%s: code %d\n%s%s", x.args, code, out, errOut)
		}
		if x.code != 0 {
			continue
		}
		code, out, errOut = c.run(x.role, "", append(strings.Fields(x.args), "--json")...)
		if code != 0 || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: code %d\n%s%s", x.args, code, out, errOut)
		}
	}
}
