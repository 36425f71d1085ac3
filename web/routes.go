package web

import (
	"net/http"

	"hallmark/access"
)

// Route is one row of the people's door.
type Route struct {
	Method  string
	Pattern string // as in api/openapi.yaml
	Action  access.Action
	handle  func(p *people, c *call) (any, error)
}

// routes is the whole administration API. Who may take a route is in the grants
// table under its action; what it takes and gives is in api/openapi.yaml under
// its method and pattern. A row that lacks either does not start.
var routes = []Route{
	{http.MethodGet, "/api/v1/me", access.ReadMe, (*people).getMe},
	{http.MethodGet, "/api/v1/summary", access.ReadSummary, (*people).getSummary},

	{http.MethodGet, "/api/v1/principals", access.ReadPrincipals, (*people).listPrincipals},
	{http.MethodPost, "/api/v1/principals", access.CreatePrincipal, (*people).createPrincipal},
	{http.MethodPost, "/api/v1/principals/{name}/disable", access.DisablePrincipal, (*people).disablePrincipal},

	{http.MethodGet, "/api/v1/authorities", access.ReadAuthorities, (*people).listAuthorities},
	{http.MethodPost, "/api/v1/authorities", access.CreateAuthority, (*people).createAuthority},
	{http.MethodGet, "/api/v1/authorities/{authority}", access.ReadAuthorities, (*people).getAuthority},
	{http.MethodPost, "/api/v1/authorities/{authority}/install", access.InstallAuthority, (*people).installAuthority},
	{http.MethodPut, "/api/v1/authorities/{authority}/list", access.PublishRootList, (*people).putRootList},
	{http.MethodPost, "/api/v1/roots", access.CreateRoot, (*people).createRoot},

	{http.MethodGet, "/api/v1/orders", access.ReadOrders, (*people).listOrders},
	{http.MethodPost, "/api/v1/orders", access.CreateOrder, (*people).createOrder},
	{http.MethodGet, "/api/v1/orders/{order}", access.ReadOrders, (*people).getOrder},
	{http.MethodPost, "/api/v1/orders/{order}/approve", access.ApproveOrder, (*people).approveOrder},
	{http.MethodPost, "/api/v1/orders/{order}/open", access.OpenOrder, (*people).openOrder},
	{http.MethodPost, "/api/v1/orders/{order}/close", access.CloseOrder, (*people).closeOrder},
	{http.MethodGet, "/api/v1/orders/{order}/units", access.ReadUnits, (*people).listUnits},

	{http.MethodPost, "/api/v1/station-codes", access.CreateStationCode, (*people).createStationCode},
	{http.MethodPost, "/api/v1/enrol-passwords", access.CreateEnrolPassword, (*people).createEnrolPassword},
	{http.MethodGet, "/api/v1/stations", access.ReadStations, (*people).listStations},
	{http.MethodPost, "/api/v1/stations/{station}/revoke", access.RevokeStation, (*people).revokeStation},

	{http.MethodGet, "/api/v1/certificates", access.ReadCertificates, (*people).searchCertificates},
	{http.MethodGet, "/api/v1/certificates/{serial}", access.ReadCertificates, (*people).getCertificate},
	{http.MethodPost, "/api/v1/certificates/{serial}/revoke", access.RevokeCertificate, (*people).revokeCertificate},
	{http.MethodGet, "/api/v1/certificates/{serial}/proof", access.ReadLog, (*people).getProof},
	{http.MethodGet, "/api/v1/devices/{device}", access.ReadDevices, (*people).getDevice},
	{http.MethodPost, "/api/v1/devices/{device}/revoke", access.RevokeDevice, (*people).revokeDevice},

	{http.MethodGet, "/api/v1/things", access.ReadThings, (*people).listThings},
	{http.MethodGet, "/api/v1/things/{thing}", access.ReadThings, (*people).getThing},
	{http.MethodGet, "/api/v1/templates", access.ReadTemplates, (*people).listTemplates},
	{http.MethodGet, "/api/v1/templates/{template}", access.ReadTemplates, (*people).getTemplate},
	{http.MethodPut, "/api/v1/templates/{template}", access.PutTemplate, (*people).putTemplate},
	{http.MethodGet, "/api/v1/hooks", access.ReadHooks, (*people).listHooks},
	{http.MethodPut, "/api/v1/hooks/{hook}", access.PutHook, (*people).putHook},
	{http.MethodGet, "/api/v1/registrations", access.ReadRegistrations, (*people).listRegistrations},
	{http.MethodPut, "/api/v1/registrations/{authority}", access.PutRegistration, (*people).putRegistration},

	{http.MethodGet, "/api/v1/jobs", access.ReadJobs, (*people).listJobs},
	{http.MethodPost, "/api/v1/jobs", access.CreateJob, (*people).createJob},
	{http.MethodGet, "/api/v1/jobs/{job}", access.ReadJobs, (*people).getJob},
	{http.MethodDelete, "/api/v1/jobs/{job}", access.DeleteJob, (*people).deleteJob},
	{http.MethodPost, "/api/v1/jobs/{job}/cancel", access.CancelJob, (*people).cancelJob},
	{http.MethodPost, "/api/v1/jobs/{job}/targets", access.CreateJob, (*people).addJobTargets},
	{http.MethodGet, "/api/v1/jobs/{job}/executions", access.ReadJobs, (*people).listJobExecutions},
	{http.MethodPost, "/api/v1/jobs/{job}/executions/{thing}/cancel", access.CancelJob, (*people).cancelJobExecution},
	{http.MethodGet, "/api/v1/things/{thing}/jobs", access.ReadJobs, (*people).listThingJobs},
	{http.MethodGet, "/api/v1/things/{thing}/shadows", access.ReadShadows, (*people).listShadows},
	{http.MethodGet, "/api/v1/things/{thing}/shadow", access.ReadShadows, (*people).getShadow},
	{http.MethodPost, "/api/v1/things/{thing}/shadow", access.UpdateShadow, (*people).updateShadow},
	{http.MethodDelete, "/api/v1/things/{thing}/shadow", access.DeleteShadow, (*people).deleteShadow},

	{http.MethodGet, "/api/v1/policies", access.ReadPolicies, (*people).listPolicies},
	{http.MethodPost, "/api/v1/policies", access.PutPolicy, (*people).createPolicy},
	{http.MethodGet, "/api/v1/policies/{policy}", access.ReadPolicies, (*people).getPolicy},
	{http.MethodDelete, "/api/v1/policies/{policy}", access.PutPolicy, (*people).deletePolicy},
	{http.MethodPost, "/api/v1/policies/{policy}/versions", access.PutPolicy, (*people).createPolicyVersion},
	{http.MethodGet, "/api/v1/policies/{policy}/versions/{version}", access.ReadPolicies, (*people).getPolicyVersion},
	{http.MethodDelete, "/api/v1/policies/{policy}/versions/{version}", access.PutPolicy, (*people).deletePolicyVersion},
	{http.MethodPost, "/api/v1/policies/{policy}/versions/{version}/default", access.PutPolicy, (*people).setDefaultPolicyVersion},
	{http.MethodGet, "/api/v1/policies/{policy}/targets", access.ReadPolicies, (*people).listPolicyTargets},
	{http.MethodPut, "/api/v1/policies/{policy}/certificates/{certificate}", access.AttachPolicy, (*people).attachPolicy},
	{http.MethodDelete, "/api/v1/policies/{policy}/certificates/{certificate}", access.AttachPolicy, (*people).detachPolicy},
	{http.MethodPut, "/api/v1/policies/{policy}/groups/{group}", access.AttachPolicyToGroup, (*people).attachPolicy},
	{http.MethodDelete, "/api/v1/policies/{policy}/groups/{group}", access.AttachPolicyToGroup, (*people).detachPolicy},
	{http.MethodGet, "/api/v1/attached-policies", access.ReadPolicies, (*people).listAttachedPolicies},
	{http.MethodPost, "/api/v1/policy-check", access.ReadPolicies, (*people).checkPolicy},
	{http.MethodGet, "/api/v1/fleet-certificates", access.ReadFleetCertificates, (*people).listFleetCertificates},
	{http.MethodPost, "/api/v1/fleet-certificates", access.RegisterFleetCertificate, (*people).registerFleetCertificate},
	{http.MethodGet, "/api/v1/fleet-certificates/{certificate}", access.ReadFleetCertificates, (*people).getFleetCertificate},
	{http.MethodPost, "/api/v1/fleet-certificates/{certificate}/status", access.SetFleetCertificateStatus, (*people).setFleetCertificateStatus},
	{http.MethodGet, "/api/v1/registration-code", access.ReadRegisteredCAs, (*people).getRegistrationCode},
	{http.MethodGet, "/api/v1/registered-cas", access.ReadRegisteredCAs, (*people).listRegisteredCAs},
	{http.MethodPost, "/api/v1/registered-cas", access.RegisterCA, (*people).registerCA},
	{http.MethodGet, "/api/v1/registered-cas/{ca}", access.ReadRegisteredCAs, (*people).getRegisteredCA},
	{http.MethodPatch, "/api/v1/registered-cas/{ca}", access.UpdateRegisteredCA, (*people).updateRegisteredCA},
	{http.MethodDelete, "/api/v1/registered-cas/{ca}", access.UpdateRegisteredCA, (*people).deleteRegisteredCA},
	{http.MethodPut, "/api/v1/registered-cas/{ca}/budget", access.PutBudget, (*people).putCABudget},
	{http.MethodGet, "/api/v1/fleet-templates", access.ReadTemplates, (*people).listFleetTemplates},
	{http.MethodPut, "/api/v1/fleet-templates/{template}", access.PutFleetTemplate, (*people).putFleetTemplate},
	{http.MethodPost, "/api/v1/fleet-templates/{template}/claims", access.CreateProvisioningClaim, (*people).createProvisioningClaim},
	{http.MethodGet, "/api/v1/claims", access.ReadClaims, (*people).listClaims},
	{http.MethodPost, "/api/v1/claims", access.CreateClaim, (*people).createClaim},
	{http.MethodGet, "/api/v1/claims/{certificate}", access.ReadClaims, (*people).getClaim},
	{http.MethodPut, "/api/v1/claims/{certificate}/budget", access.PutBudget, (*people).putClaimBudget},
	{http.MethodPost, "/api/v1/bulk-registrations", access.RegisterInBulk, (*people).registerInBulk},

	{http.MethodPost, "/api/v1/things", access.CreateThing, (*people).createThing},
	{http.MethodPatch, "/api/v1/things/{thing}", access.UpdateThing, (*people).updateThing},
	{http.MethodDelete, "/api/v1/things/{thing}", access.DeleteThing, (*people).deleteThing},
	{http.MethodGet, "/api/v1/things/{thing}/principals", access.ReadThings, (*people).listThingPrincipals},
	{http.MethodPut, "/api/v1/things/{thing}/principals/{certificate}", access.AttachPrincipal, (*people).attachThingPrincipal},
	{http.MethodDelete, "/api/v1/things/{thing}/principals/{certificate}", access.DetachPrincipal, (*people).detachThingPrincipal},
	{http.MethodGet, "/api/v1/thing-types", access.ReadThingTypes, (*people).listThingTypes},
	{http.MethodPost, "/api/v1/thing-types", access.PutThingType, (*people).createThingType},
	{http.MethodGet, "/api/v1/thing-types/{type}", access.ReadThingTypes, (*people).getThingType},
	{http.MethodPost, "/api/v1/thing-types/{type}/deprecate", access.PutThingType, (*people).deprecateThingType},
	{http.MethodDelete, "/api/v1/thing-types/{type}", access.DeleteThingType, (*people).deleteThingType},
	{http.MethodGet, "/api/v1/thing-groups", access.ReadGroups, listGroups(ThingGroups)},
	{http.MethodPost, "/api/v1/thing-groups", access.PutGroup, createGroup(ThingGroups)},
	{http.MethodGet, "/api/v1/thing-groups/{group}", access.ReadGroups, getGroup(ThingGroups)},
	{http.MethodPatch, "/api/v1/thing-groups/{group}", access.PutGroup, updateGroup(ThingGroups)},
	{http.MethodDelete, "/api/v1/thing-groups/{group}", access.DeleteGroup, deleteGroup(ThingGroups)},
	{http.MethodGet, "/api/v1/thing-groups/{group}/things", access.ReadGroups, listGroupThings(ThingGroups)},
	{http.MethodPut, "/api/v1/thing-groups/{group}/things/{thing}", access.PutMember, addToGroup(ThingGroups)},
	{http.MethodDelete, "/api/v1/thing-groups/{group}/things/{thing}", access.PutMember, removeFromGroup(ThingGroups)},
	{http.MethodGet, "/api/v1/billing-groups", access.ReadGroups, listGroups(BillingGroups)},
	{http.MethodPost, "/api/v1/billing-groups", access.PutGroup, createGroup(BillingGroups)},
	{http.MethodGet, "/api/v1/billing-groups/{group}", access.ReadGroups, getGroup(BillingGroups)},
	{http.MethodPatch, "/api/v1/billing-groups/{group}", access.PutGroup, updateGroup(BillingGroups)},
	{http.MethodDelete, "/api/v1/billing-groups/{group}", access.DeleteGroup, deleteGroup(BillingGroups)},
	{http.MethodGet, "/api/v1/billing-groups/{group}/things", access.ReadGroups, listGroupThings(BillingGroups)},
	{http.MethodPut, "/api/v1/billing-groups/{group}/things/{thing}", access.PutMember, addToGroup(BillingGroups)},
	{http.MethodDelete, "/api/v1/billing-groups/{group}/things/{thing}", access.PutMember, removeFromGroup(BillingGroups)},

	{http.MethodPost, "/api/v1/plans", access.MakePlan, (*people).makePlan},
	{http.MethodPost, "/api/v1/plans/apply", access.ApplyPlan, (*people).applyPlan},
	{http.MethodGet, "/api/v1/documents/{kind}", access.ExportDocuments, (*people).exportDocuments},
	{http.MethodGet, "/api/v1/approvals", access.ReadApprovals, (*people).listApprovals},
	{http.MethodGet, "/api/v1/approvals/{approval}", access.ReadApprovals, (*people).getApproval},
	{http.MethodPost, "/api/v1/approvals/{approval}/approve", access.DecideApproval, (*people).approveApproval},
	{http.MethodPost, "/api/v1/approvals/{approval}/reject", access.DecideApproval, (*people).rejectApproval},

	{http.MethodGet, "/api/v1/revocation-plans", access.ReadRevocationPlans, (*people).listRevocationPlans},
	{http.MethodPost, "/api/v1/revocation-plans", access.PlanRevocation, (*people).makeRevocationPlan},
	{http.MethodGet, "/api/v1/revocation-plans/{plan}", access.ReadRevocationPlans, (*people).getRevocationPlan},
	{http.MethodGet, "/api/v1/revocation-plans/{plan}/certificates", access.ReadRevocationPlans, (*people).listPlannedCertificates},
	{http.MethodPost, "/api/v1/revocation-plans/{plan}/approve", access.ApproveRevocation, (*people).approveRevocationPlan},
	{http.MethodPost, "/api/v1/revocation-plans/{plan}/run", access.RunRevocation, (*people).runRevocationPlan},
	{http.MethodPost, "/api/v1/revocation-plans/{plan}/pause", access.RunRevocation, (*people).pauseRevocationPlan},
	{http.MethodPost, "/api/v1/revocation-plans/{plan}/resume", access.RunRevocation, (*people).resumeRevocationPlan},
	{http.MethodPost, "/api/v1/revocation-plans/{plan}/abort", access.RunRevocation, (*people).abortRevocationPlan},

	{http.MethodGet, "/api/v1/lists", access.ReadLists, (*people).listLists},
	{http.MethodGet, "/api/v1/log", access.ReadLog, (*people).getLog},
	{http.MethodGet, "/api/v1/log/leaves", access.ReadLog, (*people).listLogLeaves},
	{http.MethodGet, "/api/v1/orders/{order}/leaves", access.ReadUnits, (*people).listOrderLeaves},
	{http.MethodGet, "/api/v1/orders/{order}/report", access.ReadOrders, (*people).getOrderReport},
	{http.MethodGet, "/api/v1/certificates/{serial}/receipt", access.ReadLog, (*people).getReceipt},
}

// Routes lists the table, for tests and documents.
func Routes() []Route { return append([]Route(nil), routes...) }
