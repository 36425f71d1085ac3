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

	CreateEnrolPassword Action = "enrol.password.create"
	CreateAcmeKey       Action = "enrol.acme-key.create"
	ReadAcmeKeys        Action = "enrol.acme-key.read"
	RevokeAcmeKey       Action = "enrol.acme-key.revoke"

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

	CreateThing     Action = "thing.create"
	UpdateThing     Action = "thing.update"
	DeleteThing     Action = "thing.delete"
	AttachPrincipal Action = "thing.principal.attach"
	DetachPrincipal Action = "thing.principal.detach"
	TakeOverThing   Action = "thing.principal.takeover"
	ReadThingTypes  Action = "thing.type.read"
	PutThingType    Action = "thing.type.put"
	DeleteThingType Action = "thing.type.delete"
	ReadGroups      Action = "thing.group.read"
	PutGroup        Action = "thing.group.put"
	DeleteGroup     Action = "thing.group.delete"
	PutMember       Action = "thing.group.member.put"

	ReadPolicies              Action = "policy.read"
	PutPolicy                 Action = "policy.put"
	AttachPolicy              Action = "policy.attach"
	AttachPolicyToGroup       Action = "policy.group.attach"
	ReadFleetCertificates     Action = "fleet-certificate.read"
	RegisterFleetCertificate  Action = "fleet-certificate.register"
	SetFleetCertificateStatus Action = "fleet-certificate.status"
	ReadRegisteredCAs         Action = "registered-ca.read"
	RegisterCA                Action = "registered-ca.register"
	UpdateRegisteredCA        Action = "registered-ca.update"
	PutBudget                 Action = "registration-budget.put"
	PutFleetTemplate          Action = "fleet-template.put"
	ReadClaims                Action = "claim.read"
	CreateClaim               Action = "claim.create"
	CreateProvisioningClaim   Action = "claim.provisioning.create"
	RegisterInBulk            Action = "bulk.register"

	ReadJobs        Action = "job.read"
	CreateJob       Action = "job.create"
	CancelJob       Action = "job.cancel"
	DeleteJob       Action = "job.delete"
	ReadCampaigns   Action = "campaign.read"
	CreateCampaign  Action = "campaign.create"
	ControlCampaign Action = "campaign.control"
	ReadFirmware    Action = "firmware.read"
	PublishFirmware Action = "firmware.publish"
	StopFirmware    Action = "firmware.withdraw"
	ReadTimeline    Action = "thing.timeline.read"
	ReadTrust       Action = "trust.read"
	RollRoots       Action = "trust.rollover"

	ReadOwnership     Action = "ownership.read"
	ReleaseUnits      Action = "ownership.release"
	ResetUnits        Action = "ownership.reset"
	AcceptUnits       Action = "ownership.accept"
	DecommissionUnits Action = "ownership.decommission"

	ReadShadows  Action = "shadow.read"
	UpdateShadow Action = "shadow.update"
	DeleteShadow Action = "shadow.delete"
	ReadLists    Action = "list.read"
	PublishLists Action = "list.publish"

	ReadRevocationPlans Action = "revocation-plan.read"
	PlanRevocation      Action = "revocation-plan.create"
	ApproveRevocation   Action = "revocation-plan.approve"
	RunRevocation       Action = "revocation-plan.run"

	MakePlan        Action = "plan.read"
	ApplyPlan       Action = "plan.apply"
	ExportDocuments Action = "document.read"
	ReadApprovals   Action = "approval.read"
	DecideApproval  Action = "approval.decide"

	ReadLog   Action = "log.read"
	ReadTrail Action = "trail.read"

	ReadBackup Action = "backup.read"
	MakeBackup Action = "backup.create"

	ReadBreakGlass  Action = "break-glass.read"
	OpenBreakGlass  Action = "break-glass.open" // by who has the key: no role has it
	CloseBreakGlass Action = "break-glass.close"
	RepairSignIn    Action = "sign-in.repair"
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

	// A password makes a device without a station: who may have stations made, may.
	CreateEnrolPassword: {CMManager, SecurityOfficer, Platform},
	// An ACME key stands for many devices or servers, and for long.
	CreateAcmeKey: {SecurityOfficer, Platform},
	ReadAcmeKeys:  {SecurityOfficer, Auditor, Platform},
	RevokeAcmeKey: {SecurityOfficer, Platform},

	// Trust.
	ReadCertificates:  roles,
	RevokeCertificate: {SecurityOfficer},
	ReadDevices:       roles,
	RevokeDevice:      {SecurityOfficer},
	ReadLists:         roles,
	PublishLists:      {SecurityOfficer, Platform},
	ReadLog:           roles,
	ReadTrail:         {SecurityOfficer, Auditor, Platform},

	// A backup is encrypted for whom the configuration names: making one is no right
	// to read it.
	ReadBackup:     {SecurityOfficer, Auditor, Platform},
	MakeBackup:     {SecurityOfficer, Platform},
	ReadBreakGlass: {SecurityOfficer, Auditor, Platform},

	// Revocation in bulk. Whoever planned it never approves it; see Approve.
	ReadRevocationPlans: {SecurityOfficer, Auditor, Platform},
	PlanRevocation:      {SecurityOfficer},
	ApproveRevocation:   {SecurityOfficer},
	RunRevocation:       {SecurityOfficer},

	// Life after first boot.
	ReadThings:        {SecurityOfficer, Auditor, FleetOperator, Platform},
	ReadTemplates:     {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutTemplate:       {FleetOperator, Platform},
	ReadHooks:         {SecurityOfficer, Auditor, Platform},
	PutHook:           {Platform},
	ReadRegistrations: {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutRegistration:   {Platform},

	// Things by hand. Whoever runs the fleet sorts it; the security officer too,
	// because an incident is ended by taking things out of groups and certificates
	// from things. That a thing with a live certificate of one device goes to another
	// (S22) is the officer's alone: attaching needs AttachPrincipal besides.
	CreateThing:     {SecurityOfficer, FleetOperator, Platform},
	UpdateThing:     {SecurityOfficer, FleetOperator, Platform},
	DeleteThing:     {SecurityOfficer, FleetOperator, Platform},
	AttachPrincipal: {SecurityOfficer, FleetOperator, Platform},
	DetachPrincipal: {SecurityOfficer, FleetOperator, Platform},
	TakeOverThing:   {SecurityOfficer},
	ReadThingTypes:  {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutThingType:    {SecurityOfficer, FleetOperator, Platform},
	DeleteThingType: {SecurityOfficer, FleetOperator, Platform},
	ReadGroups:      {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutGroup:        {SecurityOfficer, FleetOperator, Platform},
	DeleteGroup:     {SecurityOfficer, FleetOperator, Platform},
	PutMember:       {SecurityOfficer, FleetOperator, Platform},

	// Who comes in, and what devices may do. What concerns many devices at once,
	// and CAs and budgets of claims (S36), is not for whoever runs the devices.
	// REVOKED needs RevokeCertificate besides.
	ReadPolicies:              {SecurityOfficer, Auditor, FleetOperator, Platform},
	PutPolicy:                 {SecurityOfficer, FleetOperator, Platform},
	AttachPolicy:              {SecurityOfficer, FleetOperator, Platform},
	AttachPolicyToGroup:       {SecurityOfficer, Platform},
	ReadFleetCertificates:     {SecurityOfficer, Auditor, FleetOperator, Platform},
	RegisterFleetCertificate:  {SecurityOfficer, FleetOperator, Platform},
	SetFleetCertificateStatus: {SecurityOfficer, FleetOperator, Platform},
	ReadRegisteredCAs:         {SecurityOfficer, Auditor, FleetOperator, Platform},
	RegisterCA:                {SecurityOfficer, Platform},
	UpdateRegisteredCA:        {SecurityOfficer, Platform},
	PutBudget:                 {SecurityOfficer, Platform},
	PutFleetTemplate:          {Platform},
	ReadClaims:                {SecurityOfficer, Auditor, FleetOperator, Platform},
	CreateClaim:               {SecurityOfficer, Platform},
	CreateProvisioningClaim:   {SecurityOfficer, FleetOperator, Platform},
	RegisterInBulk:            {SecurityOfficer, FleetOperator, Platform},

	// What devices are told. The security officer has jobs and shadows because the
	// way out of an incident is often to make devices do something.
	ReadJobs:  {SecurityOfficer, Auditor, FleetOperator, Platform},
	CreateJob: {SecurityOfficer, FleetOperator, Platform},
	CancelJob: {SecurityOfficer, FleetOperator, Platform},
	DeleteJob: {SecurityOfficer, FleetOperator, Platform},
	// Campaigns; over a configured size a second person approves (S36).
	ReadCampaigns:   {SecurityOfficer, Auditor, FleetOperator, Platform},
	CreateCampaign:  {SecurityOfficer, FleetOperator, Platform},
	ControlCampaign: {SecurityOfficer, FleetOperator, Platform},
	// Firmware: whoever publishes asks, and a second person releases it (S36).
	ReadFirmware:    {SecurityOfficer, Auditor, FleetOperator, Platform},
	PublishFirmware: {SecurityOfficer, FleetOperator, Platform},
	StopFirmware:    {SecurityOfficer, FleetOperator, Platform},
	// Whom the fleet trusts; that a rollover begins, and that a gate of it is lowered, a
	// second person approves (S36).
	ReadTrust: {SecurityOfficer, Auditor, FleetOperator, Platform},
	RollRoots: {SecurityOfficer, Platform},
	// Whose device it is. The history has what its things and shadows were, so it is for
	// those who may read these. Over a configured number of units a second person
	// approves (S36); out of use is for ever, and takes the birth certificate.
	ReadOwnership:     {SecurityOfficer, Auditor, FleetOperator, Platform},
	ReleaseUnits:      {SecurityOfficer, Platform},
	ResetUnits:        {SecurityOfficer, FleetOperator, Platform},
	AcceptUnits:       {SecurityOfficer, FleetOperator, Platform},
	DecommissionUnits: {SecurityOfficer},
	// What happened to a thing shows its certificates, jobs and campaigns: it is for
	// those who may read each of them.
	ReadTimeline: {SecurityOfficer, Auditor, FleetOperator, Platform},
	ReadShadows:  {SecurityOfficer, Auditor, FleetOperator, Platform},
	UpdateShadow: {SecurityOfficer, FleetOperator, Platform},
	DeleteShadow: {SecurityOfficer, FleetOperator, Platform},

	// Documents. These let somebody in, and no more: what each document shows and
	// changes needs the right that its own route needs.
	MakePlan:        {CMManager, SecurityOfficer, Auditor, FleetOperator, Platform},
	ApplyPlan:       {CMManager, SecurityOfficer, FleetOperator, Platform},
	ExportDocuments: {CMManager, SecurityOfficer, Auditor, FleetOperator, Platform},

	// What waits for a second person. These let somebody in too: approving takes the
	// right of every change that was asked for, and is never for who asked; see Approve.
	ReadApprovals:  {CMManager, SecurityOfficer, Auditor, FleetOperator, Platform},
	DecideApproval: {CMManager, SecurityOfficer, FleetOperator, Platform},
}

// Can tells whether the actor may do this in its tenant. Only principals have
// roles: a station or a device is admitted by its door, not by this table.
func Can(a Actor, action Action) bool {
	if a.Kind == KindBreakGlass {
		return mayInEmergency(a, action)
	}
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
	if r != "" {
		out = append(out, emergency[r]...)
	}
	slices.Sort(out)
	return out
}

// Granted tells whether the table knows the action, or break-glass may do it.
func Granted(action Action) bool {
	return len(grants[action]) > 0 || action == OpenBreakGlass || slices.Contains(emergency[BreakGlass], action)
}
