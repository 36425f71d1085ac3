package ceremony

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"rsc.io/qr"
)

//go:embed record.html
var recordHTML string

var recordTemplate = template.Must(template.New("record").Parse(recordHTML))

// recordPage is what the printed record shows.
type recordPage struct {
	ID, Title, Mode, Script, ScriptWords string
	Rehearsal                            bool
	Transcript                           recordPrint
	Opened, ClockRead, Finished, Closed  string
	Program, Host                        string
	Threshold, People                    int
	Approved, Signed                     []string
	Anchors                              []string
	Steps                                []recordStep
	Keys                                 []recordKey
	Dates                                []string
	Agenda                               string
	Exceptions                           []string
}

type recordStep struct {
	N               int
	Name, What      string
	Started, Ended  string
	Confirmed       string
	Counter         string
	Objects         []recordPrint
	Shown           string
	Gone            string
	TranscriptWords string
}

type recordPrint struct {
	What, SHA256, Words string
	QR                  template.HTML
}

type recordKey struct {
	Name, URI, Algorithm, SHA256, Token, Attributes, Attested string
}

// WriteRecord writes the printable record of a verified ceremony: a page of
// HTML that needs nothing else, with the fingerprints as QR codes. data is the
// transcript that v was found of.
func WriteRecord(w io.Writer, v *Verification, data []byte) error {
	r := v.state
	if err := r.finished(); err != nil {
		return err
	}
	o, body := r.open, r.seal.body
	p := recordPage{
		ID: r.agenda.ID, Title: r.agenda.Title, Mode: r.agenda.Mode, Script: o.SHA256, ScriptWords: o.Words, Rehearsal: o.Rehearsal,
		ClockRead: o.ClockRead, Finished: body.Finished, Closed: body.ClockRead, Program: o.Program.SHA256,
		Host: o.Host.Name + ", " + o.Host.System + ", kernel " + o.Host.Kernel, Threshold: r.agenda.Custodians.Threshold,
		People: len(r.agenda.Custodians.People), Approved: r.approved, Signed: r.closed, Agenda: r.agenda.Describe(r.script),
	}
	p.Opened = r.done[0].t.Started
	var err error
	// What stays the same when signatures and witnesses are added: the seal.
	if p.Transcript, err = printOf("Seal of the transcript", r.seal.line); err != nil {
		return err
	}
	for _, a := range r.anchors {
		p.Anchors = append(p.Anchors, a.name+" "+a.at.Format("2006-01-02 15:04:05Z"))
	}
	for i, d := range r.done {
		s := recordStep{
			N: i + 1, Name: d.task.Step, What: d.task.Do, Started: d.t.Started, Ended: d.t.Finished, Confirmed: d.t.Confirmed, Shown: d.t.Shown,
			Gone: d.line.Gone, TranscriptWords: WordsOf(d.raw),
		}
		if d.line.CounterAfter != "" {
			s.Counter = d.line.CounterAfter
		}
		for _, x := range d.t.Objects {
			if !x.Made {
				continue
			}
			op, err := printOf(string(x.Role)+" "+fileOf(d.t), x.DER)
			if err != nil {
				return err
			}
			s.Objects = append(s.Objects, op)
		}
		if d.t.Kind == KindList {
			p.Dates = append(p.Dates, fmt.Sprintf("The list of %s ends at %s. Sign the next one before; half of its life is a good day.", d.t.Script.Root, d.t.Script.NotAfter))
		}
		for _, e := range d.t.Exceptions {
			if !slices.Contains(p.Exceptions, e) {
				p.Exceptions = append(p.Exceptions, e)
			}
		}
		p.Steps = append(p.Steps, s)
	}
	names := make([]string, 0, len(r.keys))
	for n := range r.keys {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		k := r.keys[n]
		a := k.Attributes
		p.Keys = append(p.Keys, recordKey{
			Name: n, URI: k.URI, Algorithm: k.Algorithm, SHA256: k.SHA256,
			Token:      fmt.Sprintf("%s, %s, serial %s, firmware %s", k.Token.Label, k.Token.Model, k.Token.Serial, k.Token.Firmware),
			Attributes: fmt.Sprintf("made on the token %s, sensitive %s, extractable %s, never extractable %s", a.Local, a.Sensitive, a.Extractable, a.NeverExtractable),
			Attested:   r.attested(n),
		})
	}
	return recordTemplate.Execute(w, p)
}

func (r *replay) attested(key string) string {
	for _, d := range r.done {
		if r.agenda.keyOf(d.task) == key && len(d.line.Attestation) > 0 {
			if found, err := checkAttestation(d.line.Attestation, &d.t.Key, r.makers); err == nil {
				return found
			}
		}
	}
	return "the token attests nothing"
}

// fileOf is the name of a step's files without an extension.
func fileOf(t *Transcript) string {
	if t.Kind == KindList {
		return t.Script.Root + "-" + t.Script.ListNumber
	}
	return t.Script.Authority
}

func printOf(what string, data []byte) (recordPrint, error) {
	sum := hexSum(data)
	svg, err := qrSVG("SHA256:" + strings.ToUpper(sum))
	return recordPrint{what, sum, WordsOf(data), svg}, err
}

// qrSVG draws a QR code as one path; capitals and digits take the smaller
// alphanumeric form. The text is ours, so the result is safe in a page.
func qrSVG(text string) (template.HTML, error) {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", ErrRequest.Wrap(err, "The QR code cannot be drawn.")
	}
	const quiet = 4
	var b strings.Builder
	n := c.Size + 2*quiet
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR code of the fingerprint" shape-rendering="crispEdges"><rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="`, n, n, n, n)
	for y := range c.Size {
		for x := 0; x < c.Size; x++ {
			if !c.Black(x, y) {
				continue
			}
			run := 1
			for x+run < c.Size && c.Black(x+run, y) {
				run++
			}
			fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
			x += run - 1
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()), nil
}
