package access

import "slices"

// Action is something that a person or a script can do. Every route of the
// administration API and every page of the console names one.
type Action string

// The actions.
const (
	ReadMe            Action = "me.read"
	ReadSummary       Action = "summary.read"
	ReadPrincipals    Action = "principal.read"
	CreatePrincipal   Action = "principal.create"
	DisablePrincipal  Action = "principal.disable"
	ReadAuthorities   Action = "authority.read"
	CreateAuthority   Action = "authority.create"
	InstallAuthority  Action = "authority.install"
	CreateRoot        Action = "root.create"
	PublishRootList   Action = "root.list.publish"
	ReadOrders        Action = "order.read"
	CreateOrder       Action = "order.create"
	ApproveOrder      Action = "order.approve"
	OpenOrder         Action = "order.open"
	CloseOrder        Action = "order.close"
	ReadUnits         Action = "unit.read"
	ReadStations      Action = "station.read"
	CreateStationCode Action = "station.code.create"
	RevokeStation     Action = "station.revoke"
	ReadCertificates  Action = "certificate.read"
	RevokeCertificate Action = "certificate.revoke"
	ReadDevices       Action = "device.read"
	RevokeDevice      Action = "device.revoke"
	ReadThings        Action = "thing.read"
	ReadTemplates     Action = "template.read"
	PutTemplate       Action = "template.put"
	ReadHooks         Action = "hook.read"
	PutHook           Action = "hook.put"
	ReadRegistrations Action = "registration.read"
	PutRegistration   Action = "registration.put"
	ReadLists         Action = "list.read"
	ReadLog           Action = "log.read"
)

// grants is the one place that says who may do what. What is not here, nobody
// may. The matrix in testdata/matrix.golden is made from it, so that a change
// is seen by whoever reads the change.
var grants = map[Action][]Role{
	ReadMe:      roles,
	ReadSummary: roles,

	// People. Whoever runs the service names them; role mapping is dangerous
	// (S36), so nobody else does.
	ReadPrincipals:   {Platform, SecurityOfficer, Auditor},
	CreatePrincipal:  {Platform},
	DisablePrincipal: {Platform, SecurityOfficer},

	// Authorities.
	ReadAuthorities:  roles,
	CreateAuthority:  {Platform, SecurityOfficer},
	InstallAuthority: {Platform, SecurityOfficer},
	CreateRoot:       {Platform, SecurityOfficer},
	PublishRootList:  {Platform, SecurityOfficer},

	// Making. The approver is besides never the creator; see Approve.
	ReadOrders:        {Operator, CMManager, SecurityOfficer, Auditor, Platform},
	CreateOrder:       {CMManager, SecurityOfficer},
	ApproveOrder:      {CMManager, SecurityOfficer},
	OpenOrder:         {CMManager, SecurityOfficer},
	CloseOrder:        {CMManager, SecurityOfficer},
	ReadUnits:         {Operator, CMManager, SecurityOfficer, Auditor, FleetOperator, Platform},
	ReadStations:      {Operator, CMManager, SecurityOfficer, Auditor, Platform},
	CreateStationCode: {CMManager, SecurityOfficer, Platform},
	RevokeStation:     {CMManager, SecurityOfficer},

	// Trust.
	ReadCertificates:  roles,
	RevokeCertificate: {SecurityOfficer},
	ReadDevices:       roles,
	RevokeDevice:      {SecurityOfficer},
	ReadLists:         roles,
	ReadLog:           roles,

	// Life after first boot.
	ReadThings:        {SecurityOfficer, Auditor, FleetOperator, Platform},
	ReadTemplates:     {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutTemplate:       {FleetOperator, Platform},
	ReadHooks:         {SecurityOfficer, Auditor, Platform},
	PutHook:           {Platform},
	ReadRegistrations: {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutRegistration:   {Platform},
}

// Can tells whether the actor may do this in its tenant. Only principals have
// roles: a station or a device is admitted by its door, not by this table.
func Can(a Actor, action Action) bool {
	return a.Kind == KindPrincipal && a.Tenant != "" && a.Name != "" && slices.Contains(grants[action], a.Role)
}

// Require is [Can] as an error.
func Require(a Actor, action Action) error {
	switch {
	case a.Kind == "":
		return ErrNoToken.New("")
	case !Can(a, action):
		return ErrForbidden.New("%s needs the right %s.", a.Name, action).With("action", string(action)).With("roles", grants[action])
	}
	return nil
}

// Actions lists what a role may do, sorted; every action for "".
func Actions(r Role) []Action {
	out := []Action{}
	for action, allowed := range grants {
		if r == "" || slices.Contains(allowed, r) {
			out = append(out, action)
		}
	}
	slices.Sort(out)
	return out
}

// Granted tells whether the table knows the action.
func Granted(action Action) bool { return len(grants[action]) > 0 }
