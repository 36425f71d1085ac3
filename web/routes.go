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

	{http.MethodGet, "/api/v1/lists", access.ReadLists, (*people).listLists},
	{http.MethodGet, "/api/v1/log", access.ReadLog, (*people).getLog},
}

// Routes lists the table, for tests and documents.
func Routes() []Route { return append([]Route(nil), routes...) }
