package console

import "hallmark/access"

// link is a place in the navigation.
type link struct {
	Section, Title, Href string
	Current              bool
}

// entry is a page in the navigation, for those who may see it.
type entry struct {
	action               access.Action
	section, title, href string
}

// part is a group of pages: what is made, whom we trust, what lives in the field.
type part struct {
	title string
	pages []entry
}

var navigation = []part{
	{"Overview", []entry{{access.ReadSummary, "overview", "Overview", "/console/"}}},
	{"Factory", []entry{
		{access.ReadOrders, "orders", "Orders", "/console/orders"},
		{access.ReadDevices, "devices", "Devices", "/console/devices"},
		{access.ReadStations, "stations", "Stations", "/console/stations"},
	}},
	{"Trust", []entry{
		{access.ReadCertificates, "certificates", "Certificates", "/console/certificates"},
		{access.ReadAuthorities, "authorities", "Authorities", "/console/authorities"},
		{access.ReadLists, "lists", "Lists", "/console/lists"},
		{access.ReadTrust, "trust", "Roots of devices", "/console/trust"},
		{access.ReadRevocationPlans, "plans", "Revocation plans", "/console/revocation-plans"},
		{access.ReadRegisteredCAs, "cas", "Registered CAs", "/console/registered-cas"},
		{access.ReadFleetCertificates, "device-certificates", "Device certificates", "/console/device-certificates"},
		{access.ReadClaims, "claims", "Claims", "/console/claims"},
		{access.ReadApprovals, "approvals", "Approvals", "/console/approvals"},
	}},
	{"Fleet", []entry{
		{access.ReadThings, "things", "Things", "/console/things"},
		{access.ReadGroups, "groups", "Groups", "/console/groups"},
		{access.ReadThingTypes, "types", "Types", "/console/thing-types"},
		{access.ReadJobs, "jobs", "Jobs", "/console/jobs"},
		{access.ReadCampaigns, "campaigns", "Campaigns", "/console/campaigns"},
		{access.ReadFirmware, "firmware", "Firmware", "/console/firmware"},
		{access.ReadCampaigns, "expiring", "Expiring", "/console/expiring"},
		{access.ReadPolicies, "policies", "Policies", "/console/policies"},
		{access.ReadTemplates, "templates", "Templates", "/console/templates"},
		{access.ReadHooks, "hooks", "Hooks", "/console/hooks"},
	}},
}

// navigate fills the two rows of the navigation: the parts, each leading to the
// first of its pages that the reader may see, and the pages of the part shown.
func (v *view) navigate() {
	if v.Who.Name == "" {
		return
	}
	for _, p := range navigation {
		var seen []link
		here := false
		for _, e := range p.pages {
			here = here || e.section == v.Section
			if v.can(e.action) {
				seen = append(seen, link{e.section, e.title, e.href, e.section == v.Section})
			}
		}
		if len(seen) == 0 {
			continue
		}
		v.Parts = append(v.Parts, link{Title: p.title, Href: seen[0].Href, Current: here})
		if here && len(p.pages) > 1 {
			v.Part, v.Nav = p.title, seen
		}
	}
}

// can tells whether the reader may do it. Templates show no link to a page whose
// reader may not see it.
func (v *view) can(a access.Action) bool { return access.Can(v.Who.Actor(), a) }

// sees are the pages that others link to.
type sees struct {
	Things, Groups, Types, Shadows, Jobs, Policies, Templates, Hooks, Certificates, DeviceCertificates, CAs, Claims, Rules, Devices, Orders, Campaigns, Timeline, Approvals bool
}

func (v *view) sees() sees {
	return sees{Things: v.can(access.ReadThings), Groups: v.can(access.ReadGroups), Types: v.can(access.ReadThingTypes), Shadows: v.can(access.ReadShadows), Jobs: v.can(access.ReadJobs),
		Policies: v.can(access.ReadPolicies), Templates: v.can(access.ReadTemplates), Hooks: v.can(access.ReadHooks), Certificates: v.can(access.ReadCertificates),
		DeviceCertificates: v.can(access.ReadFleetCertificates), CAs: v.can(access.ReadRegisteredCAs), Claims: v.can(access.ReadClaims), Rules: v.can(access.ReadRegistrations), Devices: v.can(access.ReadDevices), Orders: v.can(access.ReadOrders),
		Campaigns: v.can(access.ReadCampaigns), Timeline: v.can(access.ReadTimeline), Approvals: v.can(access.ReadApprovals)}
}
