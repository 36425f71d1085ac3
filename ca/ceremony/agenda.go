package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"hallmark/ca/profile"
)

// AgendaSchema names this form of a script. A change of meaning is a new schema.
const AgendaSchema = "hallmark.ceremony-script/v1"

// Limits of a script.
const (
	maxScript     = 64 << 10
	maxScriptNest = 8
	maxCustodians = 16
	maxSteps      = 64
)

// Agenda is a reviewed script: everything that a ceremony will do, written
// down before anybody enters the room. Its SHA-256 is what custodians approve.
type Agenda struct {
	Schema string `yaml:"schema"`
	// ID names the ceremony in files; like the name of an authority.
	ID    string `yaml:"id"`
	Title string `yaml:"title"`
	// Mode is production or development; see [Config.Development].
	Mode string `yaml:"mode"`
	// RunUntil is the last day on which an approval of this script is good.
	RunUntil       string                `yaml:"run_until"`
	AcceptFirmware bool                  `yaml:"accept_firmware"`
	Custodians     Quorum                `yaml:"custodians"`
	Witnesses      []string              `yaml:"witnesses"` // verifier keys in note form (C2SP signed-note)
	Keys           map[string]AgendaKey  `yaml:"keys"`
	Roots          map[string]AgendaRoot `yaml:"roots"` // that exist before the ceremony
	Steps          []Task                `yaml:"steps"`
}

// Quorum says who must agree.
type Quorum struct {
	Threshold int         `yaml:"threshold"` // M
	People    []Custodian `yaml:"people"`    // N
}

// Custodian is a person with a key.
type Custodian struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // base64 of the SubjectPublicKeyInfo
}

// AgendaKey is a key in a token.
type AgendaKey struct {
	URI string `yaml:"uri"`
	// Generate is the algorithm to make the key with, in the first step that
	// uses it; "" means that the key exists.
	Generate string `yaml:"generate"`
	// PIN is "prompt", or "shares" for one that custodians hold in parts.
	PIN string `yaml:"pin"`
	// PINShares is how many parts make the PIN.
	PINShares int `yaml:"pin_shares"`
	// Counter is "read" where a person reads the signature counter off the
	// token before and after each step; else "".
	Counter string `yaml:"counter"`
	// Attestation is "required" where the token must attest the key; else "".
	Attestation string `yaml:"attestation"`
}

// AgendaRoot is a root that exists.
type AgendaRoot struct {
	Certificate string `yaml:"certificate"` // file
	SHA256      string `yaml:"sha256"`      // of its DER
	Key         string `yaml:"key"`         // "" if it only is certified here
	BaseURL     string `yaml:"base_url"`
	Previous    string `yaml:"previous"` // file of the newest transcript; may be empty
}

// The kinds of steps of a script.
const (
	DoCreateRoot = "create-root"
	DoIssue      = "issue"
	DoCrossSign  = "cross-sign"
	DoSignList   = "sign-crl"
	DoRotate     = "rotate"
	DoDestroy    = "destroy"
)

// Task is one thing to do. Which members are needed depends on Do; the others
// must be absent.
type Task struct {
	Step string `yaml:"step"` // its name, which transcript and errors repeat
	Do   string `yaml:"do"`
	// Name is the authority that is made; with cross-sign the file's name.
	Name     string         `yaml:"name"`
	Key      string         `yaml:"key"`
	BaseURL  string         `yaml:"base_url"`
	Subject  *AgendaSubject `yaml:"subject"`
	NotAfter string         `yaml:"not_after"` // YYYY-MM-DD, RFC 3339 or never
	// Root is who signs.
	Root string      `yaml:"root"`
	Duty string      `yaml:"duty"`
	CSR  *AgendaFile `yaml:"csr"`
	// Constraints narrow the certificate, with issue and cross-sign.
	Constraints *profile.Constraints `yaml:"constraints"`
	// Other is the root that is certified.
	Other string `yaml:"other"`
	// First says that there was no list; else PreviousList is needed.
	First        bool           `yaml:"first"`
	PreviousList *AgendaFile    `yaml:"previous_list"`
	Days         int            `yaml:"days"`
	Revoke       []AgendaRevoke `yaml:"revoke"`
	// How says in words what people do to the token, with destroy.
	How string `yaml:"how"`
	// of is the rotation that this step is a part of.
	of string
}

// AgendaSubject is a name for a certificate.
type AgendaSubject struct {
	Country            string `yaml:"country"`
	Organization       string `yaml:"organization"`
	OrganizationalUnit string `yaml:"organizational_unit"`
	CommonName         string `yaml:"common_name"`
}

// AgendaFile is a file that is brought. Without a hash people compare its words.
type AgendaFile struct {
	File   string `yaml:"file"`
	SHA256 string `yaml:"sha256"`
}

// AgendaRevoke is a certificate to list.
type AgendaRevoke struct {
	SerialNumber string `yaml:"serial_number"`
	Reason       string `yaml:"reason"`
}

// ParseAgenda reads a script strictly: one YAML document of plain values, no
// member that this schema does not have, none twice, no anchors, aliases or
// tags, and everything that can be checked without a token.
func ParseAgenda(data []byte) (*Agenda, error) {
	if len(data) > maxScript {
		return nil, ErrScript.New("It has %d octets; at most %d are read.", len(data), maxScript)
	}
	if bytes.ContainsFunc(data, func(r rune) bool {
		// Text that reads in another order than it stands must not be approved.
		return r < 0x20 && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\uFFFD' || r == '\uFEFF' ||
			r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}) {
		return nil, ErrScript.New("It holds a tab, a control character, writing direction or octets that are not UTF-8.")
	}
	var node yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&node); err != nil {
		return nil, ErrScript.Wrap(err, "It is not YAML.")
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, ErrScript.Wrap(err, "There is more than one document.")
	}
	if err := plainYAML(&node, 0); err != nil {
		return nil, err
	}
	p := new(Agenda)
	strict := yaml.NewDecoder(bytes.NewReader(data))
	strict.KnownFields(true)
	if err := strict.Decode(p); err != nil {
		return nil, ErrScript.Wrap(err, "It is not a script: %s.", strings.Join(strings.Fields(err.Error()), " "))
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	p.expand()
	return p, nil
}

// plainYAML refuses whatever lets two readers see two documents.
func plainYAML(n *yaml.Node, depth int) error {
	switch {
	case depth > maxScriptNest:
		return ErrScript.New("Line %d: values lie in one another too deep.", n.Line)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return ErrScript.New("Line %d: anchors and aliases are not taken.", n.Line)
	case n.Style&yaml.TaggedStyle != 0 || n.Tag == "!!merge" || n.Tag == "!!binary" || n.Tag == "!!null":
		return ErrScript.New("Line %d: tags, merges and empty values are not taken.", n.Line)
	}
	for _, c := range n.Content {
		if err := plainYAML(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// expand writes rotations as the steps they are: the new root, and each root
// certified by the other.
func (p *Agenda) expand() {
	var steps []Task
	for _, s := range p.Steps {
		if s.Do != DoRotate {
			steps = append(steps, s)
			continue
		}
		create, forth, back := s, Task{Do: DoCrossSign, Root: s.Root, Other: s.Name}, Task{Do: DoCrossSign, Root: s.Name, Other: s.Root}
		create.Step, create.Do, create.Root = s.Step+".create", DoCreateRoot, ""
		forth.Step, forth.Name = s.Step+".new-by-old", crossName(s.Name, s.Root)
		back.Step, back.Name = s.Step+".old-by-new", crossName(s.Root, s.Name)
		for _, x := range []*Task{&create, &forth, &back} {
			x.of = s.Step
			steps = append(steps, *x)
		}
	}
	p.Steps = steps
}

// crossName is the file name of a cross certificate: whose, by whom.
func crossName(whose, by string) string {
	n := whose + "-by-" + by
	if len(n) <= 32 {
		return n
	}
	sum := sha256.Sum256([]byte(n))
	return n[:23] + "-" + hex.EncodeToString(sum[:4])
}

// Production tells whether no rule may be left out.
func (p *Agenda) Production() bool { return p.Mode == "production" }

// custodian finds a person by name.
func (p *Agenda) custodian(name string) (Custodian, bool) {
	for _, c := range p.Custodians.People {
		if c.Name == name {
			return c, true
		}
	}
	return Custodian{}, false
}

// spki is the public key of a custodian.
func (c Custodian) spki() ([]byte, error) { return base64.StdEncoding.Strict().DecodeString(c.Key) }

// end is the last moment of RunUntil.
func (p *Agenda) end() (time.Time, error) {
	t, err := time.Parse(time.DateOnly, p.RunUntil)
	return t.Add(24*time.Hour - time.Second), err
}

// keyOf is the name of the key that a step uses.
func (p *Agenda) keyOf(s *Task) string {
	switch s.Do {
	case DoCreateRoot, DoRotate, DoDestroy:
		return s.Key
	}
	for _, x := range p.Steps {
		if (x.Do == DoCreateRoot || x.Do == DoRotate) && x.Name == s.Root {
			return x.Key
		}
	}
	return p.Roots[s.Root].Key
}

// creates tells which step makes a root, nil if none does.
func (p *Agenda) creates(root string) *Task {
	for i := range p.Steps {
		if s := &p.Steps[i]; (s.Do == DoCreateRoot || s.Do == DoRotate) && s.Name == root {
			return s
		}
	}
	return nil
}

// constraints are those of the step.
func (s *Task) constraints() profile.Constraints {
	if s.Constraints == nil {
		return profile.Constraints{}
	}
	return *s.Constraints
}

// baseURL is what a root's URLs start with.
func (p *Agenda) baseURL(root string) string {
	if s := p.creates(root); s != nil {
		return s.BaseURL
	}
	return p.Roots[root].BaseURL
}

func (s *AgendaSubject) profile() profile.Subject {
	if s == nil {
		return profile.Subject{}
	}
	return profile.Subject{Country: s.Country, Organization: s.Organization, OrganizationalUnit: s.OrganizationalUnit, CommonName: s.CommonName}
}

// ParseEnd reads the end of a certificate: a day, a time, "never", or "" for as
// long as the profile allows.
func ParseEnd(s string) (time.Time, error) {
	switch s {
	case "":
		return time.Time{}, nil
	case "never":
		return profile.NoExpiry, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, ErrRequest.New("The end %q is not YYYY-MM-DD, an RFC 3339 time or never.", s)
}
