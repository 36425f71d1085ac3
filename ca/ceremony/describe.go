package ceremony

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Show writes a transcript for people. file is the transcript as it was read.
func Show(w io.Writer, t *Transcript, file []byte) {
	line := func(name, text string) { fmt.Fprintf(w, "%-12s %s\n", name, graphic(text)) }
	line("Step", string(t.Kind)+" of "+t.Script.Authority)
	line("Time", t.Started+" to "+t.Finished)
	line("Clock read", t.ClockRead)
	line("Witnesses", strings.Join(t.Witnesses, ", "))
	line("Mode", t.Mode)
	line("Confirmed", t.Confirmed)
	for _, e := range t.Exceptions {
		line("EXCEPTION", e)
	}
	line("Machine", t.Host.Name+", "+t.Host.System+", kernel "+t.Host.Kernel+", network: "+strings.Join(t.Host.NetworkUp, ", "))
	line("Program", "SHA-256 "+t.Program.SHA256+", "+t.Program.Go+", "+t.Program.Revision)
	line("Key", keyText(&t.Key))
	for _, o := range t.Objects {
		line(string(o.Role), "SHA-256 "+o.SHA256)
		line("", o.Words)
	}
	line("Previous", t.Previous)
	line("Transcript", "SHA-256 "+hexSum(file))
	line("", WordsOf(file))
	if t.Shown != "" {
		fmt.Fprintln(w, "This was shown before it was signed:")
		for l := range strings.Lines(t.Shown) {
			fmt.Fprintln(w, "  | "+graphic(strings.TrimSuffix(l, "\n")))
		}
	}
}

// describeCertificate says what a draft says. It reads the parsed octets and
// not the script, so that people agree to what is signed.
func describeCertificate(p *Plan, c *x509.Certificate, notes []string) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	if p.root == nil {
		fmt.Fprintf(&b, "This will create the root %q.\n", p.t.Script.Authority)
	} else if p.t.Kind == KindCross {
		fmt.Fprintf(&b, "This will certify another root, as %q.\n", p.t.Script.Authority)
	} else {
		fmt.Fprintf(&b, "This will sign the certificate of the issuing authority %q.\n", p.t.Script.Authority)
	}
	line("Profile", "%s, version %d", p.t.Script.Profile, p.t.Script.ProfileVersion)
	line("Subject", "%s", graphic(c.Subject.String()))
	line("Issuer", "%s", graphic(c.Issuer.String()))
	line("Serial number", "%x", c.SerialNumber)
	line("Not before", "%s", stamp(c.NotBefore))
	line("Not after", "%s", stamp(c.NotAfter))
	line("CA", "%t, path length %d", c.IsCA, c.MaxPathLen)
	if n := p.t.Script.constraints(); !n.Empty() {
		line("Permitted", "%s", strings.Join(n.Permitted, " "))
		line("Excluded", "%s", strings.Join(n.Excluded, " "))
		line("Purposes", "%s", strings.Join(n.Purposes, " "))
		for _, e := range c.UnhandledCriticalExtensions {
			line("Attention", "programs in Go refuse everything below it, because of the critical extension %s", e)
		}
	}
	line("Key usage", "%s", usageText(c.KeyUsage))
	line("Public key", "%s, SHA-256 %s", c.PublicKeyAlgorithm, hexSum(c.RawSubjectPublicKeyInfo))
	line("", "%s", WordsOf(c.RawSubjectPublicKeyInfo))
	if len(c.CRLDistributionPoints) > 0 {
		line("List at", "%s", strings.Join(c.CRLDistributionPoints, " "))
	}
	if len(c.IssuingCertificateURL) > 0 {
		line("Issuer at", "%s", strings.Join(c.IssuingCertificateURL, " "))
	}
	if len(c.OCSPServer) > 0 {
		line("OCSP at", "%s", strings.Join(c.OCSPServer, " "))
	}
	ids := make([]string, len(c.Extensions))
	for i, e := range c.Extensions {
		ids[i] = e.Id.String()
		if e.Critical {
			ids[i] += " (critical)"
		}
	}
	line("Extensions", "%s", strings.Join(ids, ", "))
	if p.root == nil {
		line("Base URL", "%s, for everything below it and for ever", p.t.Script.BaseURL)
	}
	for _, n := range notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	foot(&b, p)
	return b.String()
}

// describeList says what a draft of a list says.
func describeList(p *Plan, l *x509.RevocationList, known map[string]bool) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "This will sign the list of the root %q.\n", p.t.Script.Root)
	line("Issuer", "%s", graphic(l.Issuer.String()))
	line("Number", "%s", l.Number)
	line("This update", "%s", stamp(l.ThisUpdate))
	line("Next update", "%s", stamp(l.NextUpdate))
	line("Published at", "%s", p.t.Script.ListURL)
	line("Revoked", "%d certificates", len(l.RevokedCertificateEntries))
	for _, e := range l.RevokedCertificateEntries {
		mark := "NEW"
		if known[hex.EncodeToString(e.SerialNumber.Bytes())] {
			mark = "as before"
		}
		line("", "%x  %s  %s  %s", e.SerialNumber, stamp(e.RevocationTime), reasons[e.ReasonCode], mark)
	}
	foot(&b, p)
	return b.String()
}

func foot(b *strings.Builder, p *Plan) {
	sum := sha256.Sum256(p.tbs)
	fmt.Fprintf(b, "  %-14s SHA-256 %x\n  %-14s %s\n", "To be signed", sum, "", Words(sum))
	fmt.Fprintf(b, "With the key\n  %s\n", keyText(&p.t.Key))
	if len(p.t.Exceptions) > 0 {
		b.WriteString("Rules that are NOT enforced\n")
		for _, e := range p.t.Exceptions {
			fmt.Fprintf(b, "  %s\n", graphic(e))
		}
	}
	if len(p.t.Host.NetworkUp) > 0 {
		fmt.Fprintf(b, "This machine has a network: %s\n", graphic(strings.Join(p.t.Host.NetworkUp, ", ")))
	}
}

func keyText(k *KeyFacts) string {
	s := fmt.Sprintf("%s, %s", graphic(k.URI), k.Algorithm)
	if k.Token.Serial != "" || k.Token.Label != "" {
		s += fmt.Sprintf(", token %s (%s, serial %s, firmware %s)", graphic(k.Token.Label), graphic(k.Token.Model), graphic(k.Token.Serial), graphic(k.Token.Firmware))
	}
	a := k.Attributes
	return s + fmt.Sprintf("; extractable %s, never extractable %s, made on the token %s, decrypt %s, unwrap %s, derive %s", a.Extractable, a.NeverExtractable, a.Local, a.Decrypt, a.Unwrap, a.Derive)
}

// usageText names the usage bits that authorities have.
func usageText(u x509.KeyUsage) string {
	var names []string
	for _, n := range []struct {
		bit  x509.KeyUsage
		name string
	}{{x509.KeyUsageDigitalSignature, "digitalSignature"}, {x509.KeyUsageCertSign, "keyCertSign"}, {x509.KeyUsageCRLSign, "cRLSign"}} {
		if u&n.bit != 0 {
			names = append(names, n.name)
			u &^= n.bit
		}
	}
	if u != 0 {
		names = append(names, fmt.Sprintf("others (%b)", u))
	}
	return strings.Join(names, ", ")
}

// nameOf reads a Name in DER for people.
func nameOf(der []byte) string {
	var rdn pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdn); err != nil || len(rest) > 0 {
		return "unreadable"
	}
	return rdn.String()
}

// graphic makes text from outside harmless for a terminal: no control
// characters, no reversed writing.
func graphic(s string) string {
	q := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
