package web

import (
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// The handlers of the administration API, in the order of the table. What they
// decide lies behind the backend; here a request becomes a call and back.

func (p *people) getMe(c *call) (any, error) {
	me := adminapi.Me{Name: c.actor.Name, Tenant: c.actor.Tenant, Role: string(c.actor.Role), ExpiresAt: c.principal.ExpiresAt, Actions: []string{}}
	for _, a := range access.Actions(c.actor.Role) {
		me.Actions = append(me.Actions, string(a))
	}
	return me, nil
}

func (p *people) getSummary(c *call) (any, error) {
	return p.Backend.Health.Summary(c.Request().Context(), c.scope)
}

func principalView(p access.Principal) adminapi.Principal {
	return adminapi.Principal{Name: p.Name, Role: string(p.Role), CreatedAt: p.CreatedAt, ExpiresAt: p.ExpiresAt, DisabledAt: p.DisabledAt}
}

func (p *people) listPrincipals(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	rows, err := p.Access.List(c.Request().Context(), c.scope, page.After, page.Limit)
	if err != nil {
		return nil, err
	}
	out := adminapi.PrincipalPage{Items: []adminapi.Principal{}}
	for _, r := range rows {
		out.Items = append(out.Items, principalView(r))
	}
	if len(rows) == page.Limit {
		out.Next = c.next(rows[len(rows)-1].Name)
	}
	return out, nil
}

func (p *people) createPrincipal(c *call) (any, error) {
	r, err := body[adminapi.PrincipalRequest](c)
	if err != nil {
		return nil, err
	}
	made, token, err := p.Access.Create(c.Request().Context(), c.actor, r.Name, access.Role(r.Role), time.Duration(r.Days)*24*time.Hour)
	if err != nil {
		return nil, err
	}
	return adminapi.PrincipalToken{Principal: principalView(made), Token: token.Reveal()}, nil
}

func (p *people) disablePrincipal(c *call) (any, error) {
	done, err := p.Access.Disable(c.Request().Context(), c.actor, c.Param("name"))
	return principalView(done), err
}

func (p *people) listAuthorities(c *call) (any, error) {
	items, err := p.Backend.Authorities.Authorities(c.Request().Context(), c.scope)
	return adminapi.AuthorityPage{Items: list(items)}, err
}

func (p *people) createAuthority(c *call) (any, error) {
	r, err := body[adminapi.AuthorityRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Authorities.CreateAuthority(c.Request().Context(), c.actor, r)
}

func (p *people) getAuthority(c *call) (any, error) {
	return p.Backend.Authorities.Authority(c.Request().Context(), c.scope, c.Param("authority"))
}

func (p *people) installAuthority(c *call) (any, error) {
	r, err := body[adminapi.InstallRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Authorities.InstallAuthority(c.Request().Context(), c.actor, c.Param("authority"), r)
}

func (p *people) getRollover(c *call) (any, error) {
	return p.Backend.Authorities.AuthorityRollover(c.Request().Context(), c.scope, c.Param("authority"), c.QueryParam("successor"))
}

func (p *people) listServings(c *call) (any, error) {
	items, err := p.Backend.Authorities.Servings(c.Request().Context(), c.scope)
	return adminapi.ServingPage{Items: list(items)}, err
}

func (p *people) listCrosses(c *call) (any, error) {
	items, err := p.Backend.Authorities.Crosses(c.Request().Context(), c.scope)
	return adminapi.CrossPage{Items: list(items)}, err
}

func (p *people) addCross(c *call) (any, error) {
	r, err := body[adminapi.CrossRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Authorities.AddCross(c.Request().Context(), c.actor, r)
}

func (p *people) putRootList(c *call) (any, error) {
	r, err := body[adminapi.RootListRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Trust.PutRootList(c.Request().Context(), c.actor, c.Param("authority"), r)
}

func (p *people) createRoot(c *call) (any, error) {
	r, err := body[adminapi.RootRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Authorities.CreateRoot(c.Request().Context(), c.actor, r)
}

func (p *people) listOrders(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Orders.Orders(c.Request().Context(), c.scope, c.query.Get("state"), page)
	return adminapi.OrderPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createOrder(c *call) (any, error) {
	r, err := body[adminapi.OrderRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Orders.CreateOrder(c.Request().Context(), c.actor, r)
}

func (p *people) getOrder(c *call) (any, error) {
	return p.Backend.Orders.Order(c.Request().Context(), c.scope, c.Param("order"))
}

func (p *people) approveOrder(c *call) (any, error) {
	r, err := body[adminapi.Envelope](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Orders.ApproveOrder(c.Request().Context(), c.actor, c.Param("order"), r)
}

func (p *people) openOrder(c *call) (any, error) {
	return p.Backend.Orders.OpenOrder(c.Request().Context(), c.actor, c.Param("order"))
}

func (p *people) closeOrder(c *call) (any, error) {
	return p.Backend.Orders.CloseOrder(c.Request().Context(), c.actor, c.Param("order"))
}

func (p *people) listUnits(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Orders.Units(c.Request().Context(), c.scope, c.Param("order"), page)
	return adminapi.UnitPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createStationCode(c *call) (any, error) {
	r, err := body[adminapi.StationCodeRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Stations.CreateStationCode(c.Request().Context(), c.actor, r)
}

func (p *people) createEnrolPassword(c *call) (any, error) {
	r, err := body[adminapi.EnrolPasswordRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Enrolment.CreateEnrolPassword(c.Request().Context(), c.actor, r)
}

func (p *people) listAcmeKeys(c *call) (any, error) {
	items, err := p.Backend.Enrolment.AcmeKeys(c.Request().Context(), c.scope)
	return adminapi.AcmeKeyPage{Items: list(items)}, err
}

func (p *people) createAcmeKey(c *call) (any, error) {
	r, err := body[adminapi.AcmeKeyRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Enrolment.CreateAcmeKey(c.Request().Context(), c.actor, r)
}

func (p *people) revokeAcmeKey(c *call) (any, error) {
	return p.Backend.Enrolment.RevokeAcmeKey(c.Request().Context(), c.actor, c.Param("key"))
}

func (p *people) listStations(c *call) (any, error) {
	items, err := p.Backend.Stations.Stations(c.Request().Context(), c.scope)
	return adminapi.StationPage{Items: list(items)}, err
}

func (p *people) revokeStation(c *call) (any, error) {
	r, err := body[adminapi.StationRevokeRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Stations.RevokeStation(c.Request().Context(), c.actor, c.Param("station"), r)
}

func (p *people) searchCertificates(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	q := CertificateQuery{
		Holder: c.query.Get("holder"), Serial: c.query.Get("serial"), Status: c.query.Get("status"),
		Authority: c.query.Get("authority"), Order: c.query.Get("order"), Profile: c.query.Get("profile"),
	}
	items, next, err := p.Backend.Certificates.Certificates(c.Request().Context(), c.scope, q, page)
	return adminapi.CertificatePage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getCertificate(c *call) (any, error) {
	return p.Backend.Certificates.Certificate(c.Request().Context(), c.scope, c.Param("serial"))
}

func (p *people) revokeCertificate(c *call) (any, error) {
	r, err := body[adminapi.RevokeRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Trust.RevokeCertificate(c.Request().Context(), c.actor, c.Param("serial"), r)
}

func (p *people) getProof(c *call) (any, error) {
	return p.Backend.Log.Proof(c.Request().Context(), c.scope, c.Param("serial"))
}

func (p *people) getDevice(c *call) (any, error) {
	return p.Backend.Certificates.Device(c.Request().Context(), c.scope, c.Param("device"))
}

func (p *people) revokeDevice(c *call) (any, error) {
	r, err := body[adminapi.DeviceRevokeRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Trust.RevokeDevice(c.Request().Context(), c.actor, c.Param("device"), r)
}

func (p *people) getThing(c *call) (any, error) {
	return p.Backend.Registry.Thing(c.Request().Context(), c.scope, c.Param("thing"))
}

func (p *people) listTemplates(c *call) (any, error) {
	items, err := p.Backend.Registry.Templates(c.Request().Context(), c.scope)
	return adminapi.TemplatePage{Items: list(items)}, err
}

func (p *people) getTemplate(c *call) (any, error) {
	return p.Backend.Registry.Template(c.Request().Context(), c.scope, c.Param("template"))
}

func (p *people) putTemplate(c *call) (any, error) {
	r, err := body[adminapi.TemplateRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registry.PutTemplate(c.Request().Context(), c.actor, c.Param("template"), r)
}

func (p *people) listHooks(c *call) (any, error) {
	items, err := p.Backend.Registry.Hooks(c.Request().Context(), c.scope)
	return adminapi.HookPage{Items: list(items)}, err
}

func (p *people) putHook(c *call) (any, error) {
	r, err := body[adminapi.HookRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registry.PutHook(c.Request().Context(), c.actor, c.Param("hook"), r)
}

func (p *people) listRegistrations(c *call) (any, error) {
	items, err := p.Backend.Registry.Registrations(c.Request().Context(), c.scope)
	return adminapi.RegistrationPage{Items: list(items)}, err
}

func (p *people) putRegistration(c *call) (any, error) {
	r, err := body[adminapi.RegistrationRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registry.PutRegistration(c.Request().Context(), c.actor, c.Param("authority"), r)
}

func (p *people) listLists(c *call) (any, error) {
	items, err := p.Backend.Trust.Lists(c.Request().Context(), c.scope)
	return adminapi.ListPage{Items: list(items)}, err
}

func (p *people) publishLists(c *call) (any, error) {
	items, err := p.Backend.Trust.PublishLists(c.Request().Context(), c.actor, c.Param("authority"))
	return adminapi.ListPage{Items: list(items)}, err
}

func (p *people) listDestinations(c *call) (any, error) {
	items, err := p.Backend.Trust.ListDestinations(c.Request().Context())
	return adminapi.ListDestinationPage{Items: list(items)}, err
}

func (p *people) listImports(c *call) (any, error) {
	items, err := p.Backend.Trust.ListImports(c.Request().Context())
	return adminapi.ListImportPage{Items: list(items)}, err
}

func (p *people) getLog(c *call) (any, error) {
	return p.Backend.Log.LogState(c.Request().Context(), c.scope)
}
