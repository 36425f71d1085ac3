package console

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

const pageSize = 50

// funcs is what templates can call.
func (c *console) funcs() template.FuncMap {
	return template.FuncMap{
		// when is a time as the script wants it; the text is UTC for who has none.
		"when": func(t time.Time) template.HTML {
			if t.IsZero() {
				return `<span class="none">–</span>`
			}
			t = t.UTC()
			if t.Year() == 9999 {
				return `<span>never</span>`
			}
			return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04")))
		},
		// brief is a time for a narrow place; the script says the rest when one points at it.
		"brief": func(t time.Time) template.HTML {
			t = t.UTC()
			return template.HTML(fmt.Sprintf(`<time datetime="%s" data-brief>%s UTC</time>`, t.Format(time.RFC3339), t.Format("2 Jan 15:04")))
		},
		"day": func(t time.Time) template.HTML {
			if t.IsZero() {
				return `<span class="none">–</span>`
			}
			if t.UTC().Year() == 9999 {
				return `<span>never</span>`
			}
			return template.HTML(fmt.Sprintf(`<time datetime="%s" data-day>%s</time>`, t.UTC().Format(time.RFC3339), t.UTC().Format(time.DateOnly)))
		},
		"number": number,
		"left":   func(t time.Time) string { return left(t.Sub(c.Now())) },
		"span":   func(seconds int64) string { return duration(time.Duration(seconds) * time.Second) },
		"colons": colons,
		"short": func(s string) string {
			if len(s) <= 20 {
				return s
			}
			return s[:10] + "…" + s[len(s)-8:]
		},
		"path":   url.PathEscape,
		"finite": func(t time.Time) bool { return t.UTC().Year() != 9999 },
		"ended":  func(t time.Time) bool { return !t.After(c.Now()) },
		"size": func(n int64) string {
			switch {
			case n >= 1<<20:
				return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
			case n >= 1<<10:
				return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
			}
			return fmt.Sprintf("%d B", n)
		},
		"text":   shown,
		"pretty": pretty,
		"clip":   clip,
		"badge": func(word string) template.HTML {
			return template.HTML(`<span class="badge ` + tone(word) + `">` + template.HTMLEscapeString(word) + `</span>`)
		},
		"percent": func(part, whole int64) string {
			if whole <= 0 {
				return "0 %"
			}
			p := float64(part) * 100 / float64(whole)
			if p > 0 && p < 1 || p > 99 && p < 100 {
				return fmt.Sprintf("%.1f %%", p)
			}
			return fmt.Sprintf("%.0f %%", p)
		},
	}
}

// tone is the colour class of a state; never the only sign, the word is there too.
func tone(word string) string {
	switch word {
	case "ok", "good", "active", "open", "installed", "ACTIVE", "connected", "enabled", "default", "COMPLETED", "SUCCEEDED",
		"running", "completed", "done", "soaking", "released":
		return "good"
	case "warning", "approved", "issued", "pending", "reserved", "deprecated", "PENDING_ACTIVATION", "PENDING_TRANSFER", "BUILDING", "IN_PROGRESS", "DELETION_IN_PROGRESS",
		"awaiting-approval", "paused", "rolling-back", "working", "proving", "undoing", "returning", "watched", "adding", "switching", "removing", "sleepers":
		return "warn"
	case "failing", "revoked", "void", "expired", "blocked", "used up", "REVOKED", "FAILED", "REJECTED", "TIMED_OUT",
		"stopped", "failed", "rejected", "timed-out", "silent", "withdrawn":
		return "bad"
	}
	return "plain"
}

// number groups digits with thin spaces.
func number(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// colons splits hexadecimal text into octets, between which a line may break.
func colons(s string) template.HTML {
	var b strings.Builder
	for i := 0; i < len(s); i += 2 {
		if i > 0 {
			b.WriteString(":<wbr>")
		}
		b.WriteString(template.HTMLEscapeString(s[i:min(i+2, len(s))]))
	}
	return template.HTML(b.String())
}

// duration says a duration that somebody chose, exactly.
func duration(d time.Duration) string {
	text := d.String()
	for _, unit := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, unit) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// left says a duration in the largest unit that is not zero.
func left(d time.Duration) string {
	switch {
	case d <= 0:
		return "over"
	case d >= 200*365*24*time.Hour:
		return "no end"
	case d >= 2*365*24*time.Hour:
		return fmt.Sprintf("%d years", int(d.Hours()/24/365))
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d minutes", int(d.Minutes()))
}

// paging reads the cursor of a page and makes the link to the next.
func (c *console) paging(v *view) (web.Page, error) {
	q := v.r.URL.Query()
	position, err := c.Cursors.Read(v.scope.Tenant, v.r.URL.Path, q, q.Get("cursor"))
	return web.Page{After: position, Limit: pageSize}, err
}

func (c *console) nextLink(v *view, position string) string {
	if position == "" {
		return ""
	}
	q := v.r.URL.Query()
	q.Set("cursor", c.Cursors.Make(v.scope.Tenant, v.r.URL.Path, q, position))
	return v.r.URL.Path + "?" + q.Encode()
}

func (c *console) overview(v *view) (string, error) {
	v.Title = "Overview"
	s, err := c.Backend.Health.Summary(v.r.Context(), v.scope)
	if err != nil {
		return "", err
	}
	var open []adminapi.Order
	if access.Can(v.Who.Actor(), access.ReadOrders) {
		if open, _, err = c.Backend.Orders.Orders(v.r.Context(), v.scope, "open", web.Page{Limit: 10}); err != nil {
			return "", err
		}
	}
	var running []jobRow
	if v.can(access.ReadJobs) {
		items, _, err := c.Backend.Jobs.Jobs(v.r.Context(), v.scope, "IN_PROGRESS", web.Page{Limit: 5})
		if err != nil {
			return "", err
		}
		running = jobRows(items)
	}
	var attention []adminapi.HealthCheck
	for _, h := range s.Checks {
		if h.Status != "ok" {
			attention = append(attention, h)
		}
	}
	tiles := []tile{
		{"Open orders", s.OrdersOpen, number(s.UnitsUsed) + " of " + number(s.UnitsOrdered) + " units", "/console/orders?state=open", access.ReadOrders},
		{"Certificates", s.Certificates, "issued and logged", "/console/certificates", access.ReadCertificates},
		{"Revoked", s.Revoked, "revoked or held now", "/console/certificates?status=revoked", access.ReadCertificates},
		{"Things", s.Things, "devices after first boot", "/console/things", access.ReadThings},
		{"Stations", s.Stations, "active", "/console/stations", access.ReadStations},
		{"Log", s.LogSize, "entries", "", ""},
	}
	for i := range tiles {
		if !access.Can(v.Who.Actor(), tiles[i].action) {
			tiles[i].Href = ""
		}
	}
	v.Data = map[string]any{"Summary": s, "Tiles": tiles, "Open": open, "Jobs": running, "Attention": attention, "See": v.sees()}
	return "overview", nil
}

// tile is a figure of the overview; it leads somewhere if the reader may go there.
type tile struct {
	Title  string
	Value  int64
	Note   string
	Href   string
	action access.Action
}

func (c *console) orders(v *view) (string, error) {
	v.Title = "Orders"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state := v.r.URL.Query().Get("state")
	items, next, err := c.Backend.Orders.Orders(v.r.Context(), v.scope, state, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "State": state, "States": []string{"draft", "approved", "open", "closed"}}
	return "orders", err
}

func (c *console) order(v *view) (string, error) {
	o, err := c.Backend.Orders.Order(v.r.Context(), v.scope, v.r.PathValue("order"))
	if err != nil {
		return "", err
	}
	v.Title = "Order " + o.Id
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	units, next, err := c.Backend.Orders.Units(v.r.Context(), v.scope, o.Id, p)
	v.Data = map[string]any{"Order": o, "Units": units, "Next": c.nextLink(v, next), "Commands": orderCommands(o)}
	return "order", err
}

// orderCommands is what can be done now: the console itself changes nothing.
func orderCommands(o adminapi.Order) string {
	switch o.State {
	case "draft":
		return "hallmark order approve " + o.Id + " --key URI"
	case "approved":
		return "hallmark order open " + o.Id
	case "open":
		return "hallmark order close " + o.Id
	}
	return ""
}

func (c *console) devices(v *view) (string, error) {
	v.Title = "Devices"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	q := strings.TrimSpace(v.r.URL.Query().Get("q"))
	items, next, err := c.Backend.Certificates.Certificates(v.r.Context(), v.scope, web.CertificateQuery{Holder: q, Profile: "idevid"}, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next), "Query": q, "See": v.sees()}
	return "devices", err
}

// device tells the story of one unit: what happened, in order.
func (c *console) device(v *view) (string, error) {
	d, err := c.Backend.Certificates.Device(v.r.Context(), v.scope, v.r.PathValue("device"))
	if err != nil {
		return "", err
	}
	v.Title = d.Holder
	v.Data = map[string]any{"Device": d, "Story": story(&d), "See": v.sees()}
	return "device", nil
}

// event is one line of a device's story.
type event struct {
	At   time.Time
	What string
	More string
	Tone string
}

func story(d *adminapi.Device) []event {
	var out []event
	for _, s := range d.Certificates {
		name := map[string]string{"idevid": "Birth certificate issued", "ldevid": "Operational certificate issued"}[s.Profile]
		if name == "" {
			name = "Certificate issued (" + s.Profile + ")"
		}
		if !s.IssuedAt.IsZero() {
			out = append(out, event{s.IssuedAt, name, "serial " + s.Serial, "plain"})
		}
	}
	for _, id := range d.Identities {
		if !id.InstalledAt.IsZero() {
			more := "not proven by the device"
			if id.Proven {
				more = "proven by the device's signature"
			}
			if id.Station != "" {
				more += ", at station " + id.Station
			}
			out = append(out, event{id.InstalledAt, "Installed", more, "good"})
		}
	}
	if d.Thing.Name != "" {
		out = append(out, event{d.Thing.CreatedAt, "First boot: registered as a thing", d.Thing.Name, "good"})
	}
	if d.Blocked {
		more := "by " + d.BlockedBy
		if d.Note != "" {
			more += ": " + d.Note
		}
		out = append(out, event{d.BlockedAt, "Blocked", more, "bad"})
	}
	slices.SortStableFunc(out, func(a, b event) int { return a.At.Compare(b.At) })
	return out
}

func (c *console) certificates(v *view) (string, error) {
	v.Title = "Certificates"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	in := v.r.URL.Query()
	q := web.CertificateQuery{Status: in.Get("status"), Authority: in.Get("authority")}
	text := strings.TrimSpace(in.Get("q"))
	if serial := strings.ReplaceAll(text, ":", ""); isSerial(serial) {
		q.Serial = strings.ToLower(serial)
	} else {
		q.Holder = text
	}
	items, next, err := c.Backend.Certificates.Certificates(v.r.Context(), v.scope, q, p)
	if err != nil && q.Serial == "" {
		return "", err
	}
	authorities, err := c.Backend.Authorities.Authorities(v.r.Context(), v.scope)
	v.Data = map[string]any{
		"Items": items, "Next": c.nextLink(v, next), "Query": text, "Status": q.Status, "Authority": q.Authority,
		"Statuses": []string{"good", "revoked", "hold", "expired", "reserved", "void"}, "Authorities": authorities, "Filtered": text != "" || q.Status != "" || q.Authority != "",
	}
	return "certificates", err
}

func isSerial(s string) bool {
	_, err := hex.DecodeString(s)
	return len(s) == 40 && err == nil
}

// decoded is a certificate in words.
type decoded struct {
	Key        string
	Signature  string
	Usage      []string
	Purposes   []string
	Names      []string
	Policies   []string
	Lists      []string
	OCSP       []string
	SubjectKey string
	IsCA       bool
	PathLen    int
}

func decode(text string) *decoded {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	d := &decoded{Signature: c.SignatureAlgorithm.String(), Lists: c.CRLDistributionPoints, OCSP: c.OCSPServer, SubjectKey: hex.EncodeToString(c.SubjectKeyId), IsCA: c.IsCA, PathLen: c.MaxPathLen}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		d.Key = "EC " + k.Curve.Params().Name
	case *rsa.PublicKey:
		d.Key = fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		d.Key = "Ed25519"
	}
	for bit, name := range []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign"} {
		if c.KeyUsage&(1<<bit) != 0 {
			d.Usage = append(d.Usage, name)
		}
	}
	for _, u := range c.ExtKeyUsage {
		name := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "clientAuth", x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageOCSPSigning: "OCSPSigning"}[u]
		if name == "" {
			name = fmt.Sprintf("purpose %d", u)
		}
		d.Purposes = append(d.Purposes, name)
	}
	for _, n := range c.DNSNames {
		d.Names = append(d.Names, "DNS "+n)
	}
	for _, n := range c.URIs {
		d.Names = append(d.Names, "URI "+n.String())
	}
	for _, n := range c.IPAddresses {
		d.Names = append(d.Names, "IP "+n.String())
	}
	for _, p := range c.PolicyIdentifiers {
		d.Policies = append(d.Policies, p.String())
	}
	return d
}

func (c *console) certificate(v *view) (string, error) {
	cert, err := c.Backend.Certificates.Certificate(v.r.Context(), v.scope, v.r.PathValue("serial"))
	if err != nil {
		return "", err
	}
	v.Title = "Certificate of " + cert.Holder
	v.Data = map[string]any{"Cert": cert, "Decoded": decode(cert.Certificate), "See": v.sees()}
	return "certificate", nil
}

func (c *console) certificatePEM(v *view) (string, error) {
	cert, err := c.Backend.Certificates.Certificate(v.r.Context(), v.scope, v.r.PathValue("serial"))
	if err != nil {
		return "", err
	}
	if cert.Certificate == "" {
		return "", web.ErrInput.New("The serial number has no certificate.")
	}
	download(v, cert.Serial+".pem", cert.Certificate)
	return "", nil
}

// download sends a file. The name is made of letters of ours.
func download(v *view, name, text string) {
	h := v.w.Header()
	h.Set("Content-Type", "application/x-pem-file")
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Cache-Control", "no-store")
	v.w.Write([]byte(text))
}

func (c *console) authorities(v *view) (string, error) {
	v.Title = "Authorities"
	items, err := c.Backend.Authorities.Authorities(v.r.Context(), v.scope)
	v.Data = map[string]any{"Items": chain(items)}
	return "authorities", err
}

// chain orders authorities as a tree: each root with what it signed below it.
func chain(items []adminapi.Authority) []branch {
	var out []branch
	placed := map[string]bool{}
	var add func(a adminapi.Authority, depth int)
	add = func(a adminapi.Authority, depth int) {
		if placed[a.Name] {
			return
		}
		placed[a.Name] = true
		out = append(out, branch{a, decode(a.Certificate), depth})
		for _, b := range items {
			if b.Issuer == a.Name {
				add(b, depth+1)
			}
		}
	}
	for _, a := range items {
		if a.Duty == "root" {
			add(a, 0)
		}
	}
	for _, a := range items { // pending ones, which nobody signed yet
		add(a, 0)
	}
	return out
}

type branch struct {
	adminapi.Authority
	Decoded *decoded
	Depth   int
}

func (c *console) authorityPEM(v *view) (string, error) {
	a, err := c.Backend.Authorities.Authority(v.r.Context(), v.scope, v.r.PathValue("authority"))
	if err != nil {
		return "", err
	}
	if a.Certificate == "" {
		return "", web.ErrInput.New("The authority has no certificate yet.")
	}
	download(v, a.Name+".pem", a.Certificate)
	return "", nil
}

func (c *console) lists(v *view) (string, error) {
	v.Title = "Revocation lists"
	items, err := c.Backend.Trust.Lists(v.r.Context(), v.scope)
	v.Data = map[string]any{"Items": items}
	return "lists", err
}

func (c *console) stations(v *view) (string, error) {
	v.Title = "Stations"
	items, err := c.Backend.Stations.Stations(v.r.Context(), v.scope)
	v.Data = map[string]any{"Items": items}
	return "stations", err
}
