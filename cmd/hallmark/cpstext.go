package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// cpsOutline is the outline of RFC 3647, Section 6, to its second level.
var cpsOutline = []struct {
	title    string
	sections []string
}{
	{"Introduction", []string{"Overview", "Document name and identification", "PKI participants", "Certificate usage", "Policy administration", "Definitions and acronyms"}},
	{"Publication and repository responsibilities", []string{"Repositories", "Publication of certification information", "Time or frequency of publication", "Access controls on repositories"}},
	{"Identification and authentication", []string{"Naming", "Initial identity validation", "Identification and authentication for re-key requests", "Identification and authentication for revocation request"}},
	{"Certificate life-cycle operational requirements", []string{"Certificate application", "Certificate application processing", "Certificate issuance", "Certificate acceptance", "Key pair and certificate usage", "Certificate renewal",
		"Certificate re-key", "Certificate modification", "Certificate revocation and suspension", "Certificate status services", "End of subscription", "Key escrow and recovery"}},
	{"Facility, management, and operational controls", []string{"Physical controls", "Procedural controls", "Personnel controls", "Audit logging procedures", "Records archival", "Key changeover", "Compromise and disaster recovery", "CA or RA termination"}},
	{"Technical security controls", []string{"Key pair generation and installation", "Private key protection and cryptographic module engineering controls", "Other aspects of key pair management", "Activation data",
		"Computer security controls", "Life cycle technical controls", "Network security controls", "Time-stamping"}},
	{"Certificate, CRL, and OCSP profiles", []string{"Certificate profile", "CRL profile", "OCSP profile"}},
	{"Compliance audit and other assessments", []string{"Frequency or circumstances of assessment", "Identity/qualifications of assessor", "Assessor's relationship to assessed entity", "Topics covered by assessment", "Actions taken as a result of deficiency", "Communication of results"}},
	{"Other business and legal matters", []string{"Fees", "Financial responsibility", "Confidentiality of business information", "Privacy of personal information", "Intellectual property rights", "Representations and warranties",
		"Disclaimers of warranties", "Limitations of liability", "Indemnities", "Term and termination", "Individual notices and communications with participants", "Amendments", "Dispute resolution provisions", "Governing law",
		"Compliance with applicable law", "Miscellaneous provisions", "Other provisions"}},
}

// writeCPS writes the statement. A section that says nothing here is a person's.
func writeCPS(f *cpsFacts) *cpsDocument {
	name := "the operator"
	for _, a := range f.authorities {
		if c := f.certificate(&a); c != nil && len(c.Subject.Organization) > 0 {
			name = c.Subject.Organization[0]
			break
		}
	}
	d := &cpsDocument{title: "Certificate policy and certification practice statement of " + name}
	d.say("Draft of %s from the configuration and the running service, program version %s. State: %s.", f.now.UTC().Format("2 January 2006 15:04Z"), version,
		map[bool]string{true: "production mode", false: "development mode, which is not for devices that are sold"}[f.cfg.Production])
	for i, chapter := range cpsOutline {
		d.heading(1, fmt.Sprintf("%d. %s", i+1, chapter.title))
		for j, section := range chapter.sections {
			number := fmt.Sprintf("%d.%d", i+1, j+1)
			d.heading(2, number+" "+section)
			before := len(d.blocks)
			if write := cpsSections[number]; write != nil {
				write(f, d)
			}
			if len(d.blocks) == before {
				d.todo("this section; nothing in the service decides it.")
			}
		}
	}
	return d
}

func (f *cpsFacts) certificate(a *adminapi.Authority) *x509.Certificate {
	b, _ := pem.Decode([]byte(a.Certificate))
	if b == nil {
		return nil
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil
	}
	return c
}

// each gives the roots or the others, those that have a certificate.
func (f *cpsFacts) each(root bool, do func(a *adminapi.Authority, c *x509.Certificate)) {
	for i := range f.authorities {
		a := &f.authorities[i]
		if c := f.certificate(a); c != nil && (a.Duty == string(profile.DutyRoot)) == root {
			do(a, c)
		}
	}
}

func keyName(pub any) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return "RSA " + strconv.Itoa(k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", pub)
}

// keyPlace tells what kind of place a key is in, without naming files.
func keyPlace(uri string) string {
	switch {
	case uri == "":
		return "offline"
	case strings.HasPrefix(uri, "pkcs11:"):
		return "PKCS #11 token"
	case strings.HasPrefix(uri, "piv:"):
		return "PIV card"
	}
	return "encrypted file, exposed"
}

// lifeText is a duration in the unit that people use.
func lifeText(d time.Duration) string {
	const day = 24 * time.Hour
	one := func(n int64, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d >= 365*day && d%(365*day) == 0:
		return one(int64(d/(365*day)), "year")
	case d >= day && d%day == 0:
		return one(int64(d/day), "day")
	case d >= time.Hour && d%time.Hour == 0:
		return one(int64(d/time.Hour), "hour")
	case d >= time.Minute && d%time.Minute == 0:
		return one(int64(d/time.Minute), "minute")
	}
	return d.String()
}

func endText(t time.Time) string {
	if t.Equal(profile.NoExpiry) {
		return "9999-12-31 (no end)"
	}
	return day(t)
}

var purposeNames = map[string]string{profile.PurposeServerAuth.String(): "serverAuth", profile.PurposeClientAuth.String(): "clientAuth", profile.PurposeOCSPSigning.String(): "OCSPSigning", profile.PurposeEmail.String(): "emailProtection"}

func purposesText(all []der.OID) string {
	var out []string
	for _, p := range all {
		n := purposeNames[p.String()]
		if n == "" {
			n = p.String()
		}
		out = append(out, n)
	}
	return dash(strings.Join(out, ", "))
}

// cpsSections are the sections that the service decides at least in part.
var cpsSections = map[string]func(f *cpsFacts, d *cpsDocument){
	"1.1": func(f *cpsFacts, d *cpsDocument) {
		d.say("The service makes and manages identities of connected products: birth certificates (IDevID) in the factory, operational certificates (LDevID) in the field. Every certificate and every revocation is a leaf of a transparency log.")
		d.todo("products and markets that this statement covers.")
	},
	"1.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("Certificates name their role by a policy object identifier below %s: %s.1.ROLE, with ROLE as in Section 7.1, and for devices the origin of the key as %s.2.ORIGIN.", f.cfg.PolicyArc, f.cfg.PolicyArc, f.cfg.PolicyArc)
		if f.cfg.PolicyArc == profile.DefaultArc {
			d.todo("an arc of your own; this is the program's default (policy_arc).")
		}
		d.todo("name, version and date of this document, and its own object identifier.")
	},
	"1.3": func(f *cpsFacts, d *cpsDocument) {
		d.say("Certification authorities:")
		rows := [][]string{{"Name", "Duty", "Subject", "Issuer", "Key", "In", "From", "To", "Issues until", "State"}}
		for _, root := range []bool{true, false} {
			f.each(root, func(a *adminapi.Authority, c *x509.Certificate) {
				rows = append(rows, []string{a.Name, a.Duty, c.Subject.String(), dash(a.Issuer), keyName(c.PublicKey), keyPlace(a.KeyUri), day(c.NotBefore), endText(c.NotAfter), dash(day(a.IssueUntil)), a.State})
			})
		}
		d.table(rows...)
		d.say("Registration authorities are the factory's stations, each with a certificate of its own, and the people of Section 5.2. Subscribers are the devices and, for them, their manufacturer. Relying parties are the services that devices talk to.")
		d.todo("contract manufacturers and other organisations that run stations.")
	},
	"1.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("A device's certificate authenticates the device as a client (clientAuth) and nothing else; it signs no documents, code or other certificates. A device authority certifies no authority.")
		d.todo("uses that are forbidden by contract.")
	},
	"2.1": func(f *cpsFacts, d *cpsDocument) {
		d.say("Lists, OCSP, certificates of authorities and the log are published under %s.", f.cfg.BaseURL)
		for _, p := range f.cfg.Lists.Destinations {
			d.list("also sent to " + dash(p.Directory+p.URL+p.S3))
		}
		if f.cfg.Log.Publish != "" {
			d.say("The log is also published as static files.")
		}
	},
	"2.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("Published are the certificates of all authorities, their revocation lists%s, OCSP answers, and hashes and checkpoints of the transparency log %s. Certificates of devices are not published.",
			map[bool]string{true: ", delta lists", false: ""}[f.cfg.Lists.Deltas]+map[bool]string{true: ", compact filters", false: ""}[f.cfg.Lists.Filters > 0], f.cfg.Log.Origin)
		d.todo("where this statement is published.")
	},
	"2.3": func(f *cpsFacts, d *cpsDocument) {
		v := time.Duration(f.cfg.Lists.Validity)
		d.list("a list: within a second of a revocation, and at the latest when half of its "+lifeText(v)+" is over",
			"OCSP answers: signed when they are asked for or before, for at most 12 hours; caches keep them for at most 10 minutes",
			"the log's checkpoint: every second when there is something new",
			"a root's list: by a ceremony, before its nextUpdate")
		if e := time.Duration(f.cfg.Lists.Filters); e > 0 {
			d.list("a compact filter: every " + lifeText(e) + "; its changes every " + lifeText(e/24))
		}
	},
	"2.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("Reading needs no authentication. Only the service writes; what it publishes is signed.")
	},
	"3.1": func(f *cpsFacts, d *cpsDocument) {
		d.say("A birth certificate names the unit by its serial number, which is unique in its tenant without regard to case, and its order's organisation. Names are never reused while a certificate of them is in force.")
		if f.cfg.Domain != "" {
			d.say("Devices have the DNS name UNIT.ORDER.%s.", f.cfg.Domain)
		}
		if f.cfg.Privacy.Pseudonyms {
			d.say("Operational certificates carry pseudonyms.")
		}
	},
	"3.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("Every request proves the possession of its private key by its own signature. A unit's identity is vouched for by the station's certificate, within an order that %s; its quantity bounds what can be made. Where the key comes from is declared in the order and named in the certificate:",
			map[bool]string{true: fmt.Sprintf("%d of %d pinned approvers signed", f.cfg.ApprovalsNeeded, len(f.cfg.Approvers)), false: "nobody has to sign, since no approver is configured"}[len(f.cfg.Approvers) > 0])
		d.table([]string{"Origin", "Policy", "Proof"},
			[]string{string(profile.OriginAttested), policyText(f, profile.OriginAttested), "the device's secure element attests the key"},
			[]string{string(profile.OriginManifest), policyText(f, profile.OriginManifest), "the key is in the chip maker's signed manifest"},
			[]string{string(profile.OriginClaimed), policyText(f, profile.OriginClaimed), "none: the device says that it made the key"},
			[]string{string(profile.OriginStationMade), policyText(f, profile.OriginStationMade), "none: the station made it and wrote it to the device"},
			[]string{string(profile.OriginServerMade), policyText(f, profile.OriginServerMade), map[bool]string{true: "none: the service made it", false: "switched off here"}[f.cfg.Fleet.ServerKeys]})
		d.todo("how organisations and people are identified before they get a station, a role or an approver's key.")
	},
	"3.3": func(f *cpsFacts, d *cpsDocument) {
		d.say("A device renews with its birth certificate or its operational certificate over mutual TLS; the new request is bound to that connection. A revoked, held or blocked identity is not certified again.")
	},
	"3.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("Revocation is asked for by a named person with a token and the role of Section 5.2. One person may put on hold; revoking in bulk and releasing need a second.")
	},
	"4.1": func(f *cpsFacts, d *cpsDocument) {
		ways := []string{"stations at the factory door, within an open order", "devices with a birth certificate, for their operational certificate"}
		if f.cfg.Enrolment.EST.Enabled {
			ways = append(ways, "EST (RFC 7030), with a one-time password or a certificate")
		}
		if f.cfg.Enrolment.CMP.Enabled {
			ways = append(ways, "CMP (RFC 4210, RFC 9483), with a one-time password or a certificate")
		}
		if f.cfg.Fleet.JITP {
			ways = append(ways, "devices of registered CAs at their first connection")
		}
		if l := f.cfg.Fleet.DarkLane; l.Policy != "" {
			ways = append(ways, fmt.Sprintf("devices whose certificate ended less than %s ago, at most %d a day, into quarantine", lifeText(time.Duration(l.Within)), l.PerDay))
		}
		d.list(ways...)
	},
	"4.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("The service checks signature and strength of the key, identity, order, quota and state of revocation in one transaction, and refuses known weak keys. Requests are decided at once; there is no waiting list but for approvals.")
	},
	"4.3": func(f *cpsFacts, d *cpsDocument) {
		d.say("The serial number is drawn and the content to be signed is checked by lints and stored before the key is used; a retry signs the same octets. The signature is verified before the certificate is recorded, and the record and its log leaf are one transaction.")
	},
	"4.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("The station commits with a signature of the device's key over the certificate. What is not committed is revoked or put on hold after a deadline.")
	},
	"4.5": func(f *cpsFacts, d *cpsDocument) {
		d.say("A device may use its key to authenticate to the services of its manufacturer. A relying party checks the chain, the role's policy identifier and the state of revocation.")
	},
	"4.6": func(f *cpsFacts, d *cpsDocument) {
		d.say("Operational certificates are renewed with a new key; see 4.7. Birth certificates are not renewed.")
	},
	"4.7": func(f *cpsFacts, d *cpsDocument) {
		d.say("A device holds at most two operational certificates at a time. The oldest is superseded and revoked by a third.")
	},
	"4.8": func(f *cpsFacts, d *cpsDocument) { d.say("A certificate is never modified.") },
	"4.9": func(f *cpsFacts, d *cpsDocument) {
		d.list("reasons: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn; certificateHold is the one that can be taken back",
			"a revocation is permanent and is in the log; keyCompromise is never weakened, and blocks the whole device unless somebody says otherwise",
			"at our doors it counts at once; open connections end within a second",
			"on the lists within a second of the request, at a relying party when its copy ends: at the latest after "+lifeText(time.Duration(f.cfg.Lists.Validity))+" by list, 12 hours by OCSP",
			"an entry leaves a list after the certificate has expired and was on one more")
		d.todo("who may ask for a revocation from outside, where, and how fast it is answered.")
	},
	"4.10": func(f *cpsFacts, d *cpsDocument) {
		rows := [][]string{{"Authority", "Lists", "Entries now", "Address", "OCSP"}}
		f.each(false, func(a *adminapi.Authority, _ *x509.Certificate) {
			n, entries, url := 0, int64(0), ""
			for _, l := range f.lists {
				if l.Authority == a.Name {
					n, entries = n+1, entries+l.Entries
					if url == "" {
						url = l.Url
					}
				}
			}
			rows = append(rows, []string{a.Name, strconv.Itoa(n), strconv.FormatInt(entries, 10), url, strings.TrimSuffix(a.BaseUrl, "/") + "/ocsp/" + a.Name})
		})
		d.table(rows...)
	},
	"4.11": func(f *cpsFacts, d *cpsDocument) {
		d.say("The end of a device's life is a revocation with the reason cessationOfOperation, which blocks its identity.")
	},
	"4.12": func(f *cpsFacts, d *cpsDocument) {
		d.say("Private keys of devices are not kept. %s", map[bool]string{true: "Keys that the service made are given out once and forgotten.", false: "The service makes no keys of devices."}[f.cfg.Fleet.ServerKeys])
	},
	"5.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("Roles and what they may do:")
		rows := [][]string{{"Role", "May"}}
		for _, r := range access.Roles() {
			var may []string
			for _, a := range access.Actions(r) {
				may = append(may, string(a))
			}
			slices.Sort(may)
			rows = append(rows, []string{string(r), strings.Join(may, ", ")})
		}
		d.table(rows...)
		if n := len(f.cfg.Approvers); n > 0 {
			var names []string
			for _, a := range f.cfg.Approvers {
				names = append(names, a.Name)
			}
			d.say("Orders are signed by %d of these %d approvers, whose keys are pinned in the configuration: %s. Nobody approves what they made themselves.", f.cfg.ApprovalsNeeded, n, strings.Join(names, ", "))
		} else {
			d.say("No approver is configured: orders are not signed. Production mode refuses this.")
		}
		d.say("Ceremonies run a reviewed script. The script says how many of which custodians have to agree; each signs the script's hash with a PIV card or a key file, and signs the transcript at the end.")
		d.todo("who holds which role, and who are the custodians.")
	},
	"5.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("Every act of a person is recorded with the person's name. Issuance, revocation, hold, release and void are leaves of the log %s, whose checkpoints are signed.", f.cfg.Log.Origin)
		if n := len(f.cfg.Log.Witnesses); n > 0 {
			q := f.cfg.Log.Quorum
			if q == 0 {
				q = n
			}
			d.say("%d of %d witnesses sign a checkpoint before it is published.", q, n)
		} else {
			d.say("No witness is configured.")
		}
	},
	"5.5": func(f *cpsFacts, d *cpsDocument) {
		d.say("Records of certificates, revocations and log leaves are never deleted. When a device was last connected is kept for %s.", lifeText(time.Duration(f.cfg.Privacy.Presence)))
		d.todo("periods that the law asks for, and where copies are kept.")
	},
	"5.6": func(f *cpsFacts, d *cpsDocument) {
		d.say("An authority stops issuing before its certificate ends (Section 1.3, issues until), early enough that what it issued ends before it does, and goes on signing lists.")
	},
	"5.7": func(f *cpsFacts, d *cpsDocument) {
		d.say("A compromised station, order, operator, tool version or key is answered with a plan that names every certificate it touched, a second person's approval, and revocation in stages. After a restore the numbers of lists and the log are compared with what was published; neither goes back.")
		d.todo("times in which operation is resumed, and who decides.")
	},
	"6.1": func(f *cpsFacts, d *cpsDocument) {
		d.say("Keys of authorities are made in their token, by a ceremony or under dual control. Accepted keys of subscribers are ECDSA P-256 and P-384, RSA from 2048 to 4096 bits, and Ed25519; keys of authorities are those in Section 1.3.")
	},
	"6.2": func(f *cpsFacts, d *cpsDocument) {
		rows := [][]string{{"Authority", "Key", "Kept in"}}
		for _, root := range []bool{true, false} {
			f.each(root, func(a *adminapi.Authority, c *x509.Certificate) {
				rows = append(rows, []string{a.Name, keyName(c.PublicKey), keyPlace(a.KeyUri)})
			})
		}
		d.table(rows...)
		for _, g := range f.cfg.Tokens.Groups {
			d.say("The keys of the group %s are in more than one token.", g.Name)
		}
		d.todo("certification of the modules (FIPS 140-3, Common Criteria) and where they stand.")
	},
	"6.3": func(f *cpsFacts, d *cpsDocument) {
		rows := [][]string{{"Kind", "Longest life", "At the same time"}}
		for _, p := range profile.All() {
			life := lifeText(p.Lifetime)
			if p.NoExpiry {
				life += ", or no end where the issuer has none"
			}
			rows = append(rows, []string{string(p.Name), life, strconv.Itoa(max(p.Slots, 1))})
		}
		d.table(rows...)
	},
	"6.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("PINs come from a file, a credential of the system, a prompt or the token's own pad; where a token knows one PIN, custodians hold parts of it (Shamir).")
	},
	"6.5": func(f *cpsFacts, d *cpsDocument) {
		d.say("Rows of the database that decide something carry a keyed sum whose key is outside the database; hallmark fsck proves that nothing else wrote them.")
	},
	"6.7": func(f *cpsFacts, d *cpsDocument) {
		d.say("People, devices, stations and enrolment have separate doors. Devices and stations authenticate with certificates over TLS 1.2 or later%s.", map[bool]string{true: "; devices over TLS 1.3 only", false: ""}[f.cfg.Privacy.TLS13])
		d.todo("firewalls and networks around the service.")
	},
	"6.8": func(f *cpsFacts, d *cpsDocument) {
		d.say("There is no time-stamping. The service compares its clock with %s, and issues nothing when they disagree.", map[bool]string{true: strconv.Itoa(len(f.cfg.NTP)) + " time servers and the database", false: "the database"}[len(f.cfg.NTP) > 0])
	},
	"7.1": func(f *cpsFacts, d *cpsDocument) {
		d.say("X.509 version 3 (RFC 5280). Serial numbers have 20 octets with 128 random bits. Certificates of end entities name a list and an OCSP service.")
		rows := [][]string{{"Kind", "Issuer", "Policy", "Purposes", "Path length"}}
		for _, p := range profile.All() {
			path := "-"
			if p.CA {
				path = strconv.Itoa(p.PathLen)
			}
			issuer := string(p.Issuer)
			if issuer == "" {
				issuer = "the authority it answers for"
			}
			rows = append(rows, []string{fmt.Sprintf("%s, version %d", p.Name, p.Version), issuer, fmt.Sprintf("%s.1.%d", f.cfg.PolicyArc, p.Role), purposesText(p.Purposes), path})
		}
		d.table(rows...)
	},
	"7.2": func(f *cpsFacts, d *cpsDocument) {
		d.say("Version 2 (RFC 5280, Section 5), valid for %s, with a number that rises, authorityKeyIdentifier and a critical issuingDistributionPoint. New authorities have %d list(s); a certificate names its own from birth. Delta lists: %s.",
			lifeText(time.Duration(f.cfg.Lists.Validity)), f.cfg.Lists.Shards, yesNo(f.cfg.Lists.Deltas))
	},
	"7.3": func(f *cpsFacts, d *cpsDocument) {
		p, _ := profile.Get(profile.OCSPResponder)
		d.say("RFC 6960, by a delegated responder for each authority with its own key, whose certificate lives at most %s and carries id-pkix-ocsp-nocheck. Answers live at most 12 hours. A serial number without a recorded certificate is unknown. Nonces are ignored.", lifeText(p.Lifetime))
	},
	"9.4": func(f *cpsFacts, d *cpsDocument) {
		d.say("The public log has hashes only. Retention: last connection %s; what names without a thing said, %s.", lifeText(time.Duration(f.cfg.Privacy.Presence)), lifeText(time.Duration(f.cfg.Privacy.Orphans)))
		d.todo("the privacy notice.")
	},
}

func policyText(f *cpsFacts, o profile.Origin) string {
	return fmt.Sprintf("%s.2.%d", f.cfg.PolicyArc, o.Arc())
}
