package declare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// APIVersion is the version that every document names.
const APIVersion = "hallmark/v1"

// What one plan takes.
const (
	MaxDocuments = 500
	MaxFiles     = 500
	maxDepth     = 30 // what strictjson takes of JSON
	maxName      = 128
	maxFindings  = 200
)

// File is a file of documents.
type File struct{ Name, Text string }

// Spec is what a document wants of an object, in its kind's type. Its JSON is its
// canonical form: a field that is absent has its default.
type Spec any

// Document is one document, read and held to its kind's form.
type Document struct {
	Kind Kind
	Name string
	Spec Spec
	File string
	Line int

	lines map[string]int // of the paths below spec
	raw   []int          // of the lines of the spec's JSON
}

// Finding is one mistake.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Kind    string `json:"kind,omitempty"`
	Name    string `json:"name,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}

// refused is all findings as one error.
func refused(found []Finding, detail string) error {
	n := len(found)
	if n > maxFindings {
		found = found[:maxFindings]
	}
	text := fmt.Sprintf("There are %d mistakes.", n)
	if n == 1 {
		text = "There is one mistake."
	}
	if detail != "" {
		text += " " + detail
	}
	return ErrRefused.New("%s", text).With("errors", found)
}

// finding is a fault at a place of a document.
func (d *Document) finding(err error) Finding {
	f := fault.From(err)
	g := Finding{File: d.File, Line: d.Line, Name: d.Name, Code: f.Code, Message: strings.TrimSpace(f.What + " " + f.Detail), Next: f.Next}
	if d.Kind != nil {
		g.Kind = d.Kind.Name()
	}
	// The nearest place that the path names; what judges a body counts from there.
	if path, ok := f.Members["path"].(string); ok && path != "" {
		for _, prefix := range []string{"", "body.", "document."} {
			if line := d.nearest(prefix + path); line > 0 {
				g.Line = line
				break
			}
		}
	}
	return g
}

// nearest is the line of a path, or of what holds it; 0 if there is neither.
func (d *Document) nearest(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// Parse reads the documents of all files. Its error is [ErrRefused] with every
// finding, or says that there is nothing or too much.
func Parse(files []File, kinds []Kind) ([]Document, error) {
	p := parser{kinds: kinds, seen: map[string]string{}}
	if len(files) > MaxFiles {
		return nil, ErrLimit.New("There are %d files, %d are taken.", len(files), MaxFiles)
	}
	for _, f := range files {
		p.file(f)
	}
	switch {
	case len(p.out)+len(p.found) == 0:
		return nil, ErrEmpty.New("")
	case len(p.out) > MaxDocuments:
		return nil, ErrLimit.New("There are %d documents, %d are taken at a time.", len(p.out), MaxDocuments)
	case len(p.found) > 0:
		return nil, refused(p.found, "")
	}
	return p.out, nil
}

type parser struct {
	kinds []Kind
	out   []Document
	found []Finding
	seen  map[string]string // places by kind and name
}

func (p *parser) fail(d *Document, line int, err error) {
	at := *d
	if line > 0 {
		at.Line = line
	}
	p.found = append(p.found, at.finding(err))
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

func (p *parser) file(f File) {
	at := &Document{File: f.Name, Line: 1}
	if !utf8.ValidString(f.Text) {
		p.fail(at, 1, ErrYAML.New("It is not UTF-8."))
		return
	}
	dec := yaml.NewDecoder(strings.NewReader(f.Text))
	for len(p.out) <= MaxDocuments {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			text, line := err.Error(), 1
			if m := yamlLine.FindStringSubmatch(text); m != nil {
				line, _ = strconv.Atoi(m[1])
				text = text[len(m[0]):]
			}
			p.fail(at, line, ErrYAML.New("%.120s", strings.TrimPrefix(text, "yaml: ")))
			return // what follows cannot be told from the broken part
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
			continue
		}
		if root := n.Content[0]; root.Kind != yaml.ScalarNode || root.ShortTag() != "!!null" { // a document of comments alone is none
			p.document(f.Name, root)
		}
	}
}

// document reads one document.
func (p *parser) document(file string, root *yaml.Node) {
	d := Document{File: file, Line: root.Line}
	before := len(p.found)
	top := p.mapping(&d, root, "the document", "apiVersion", "kind", "metadata", "spec")
	if top == nil {
		return
	}
	text := func(n *yaml.Node, what string) string {
		if n == nil {
			p.fail(&d, 0, ErrField.New("%s is missing.", what))
			return ""
		}
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!int" && n.ShortTag() != "!!float" && n.ShortTag() != "!!timestamp" || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
			p.fail(&d, n.Line, ErrForm.New("%s is not a text.", what))
			return ""
		}
		return n.Value
	}
	if v := text(top["apiVersion"], "apiVersion"); v != "" && v != APIVersion {
		p.fail(&d, top["apiVersion"].Line, ErrVersion.New("It is %s.", strictjson.Quote(v)))
	}
	kind := text(top["kind"], "kind")
	if i := slices.IndexFunc(p.kinds, func(k Kind) bool { return k.Name() == kind }); i >= 0 {
		d.Kind = p.kinds[i]
	} else if kind != "" {
		var names []string
		for _, k := range p.kinds {
			names = append(names, k.Name())
		}
		p.fail(&d, top["kind"].Line, ErrKind.New("%s is none of %s.", strictjson.Quote(kind), strings.Join(names, ", ")))
	}
	if meta := top["metadata"]; meta == nil {
		p.fail(&d, 0, ErrField.New("metadata is missing."))
	} else if m := p.mapping(&d, meta, "metadata", "name"); m != nil {
		d.Name = text(m["name"], "metadata.name")
		if len(d.Name) > maxName || strings.ContainsFunc(d.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			d.Name = ""
			p.fail(&d, m["name"].Line, ErrField.New("metadata.name is not 1 to %d printable characters.", maxName))
		}
	}
	var raw bytes.Buffer
	if spec := top["spec"]; spec == nil {
		p.fail(&d, 0, ErrField.New("spec is missing."))
	} else if spec.Kind != yaml.MappingNode {
		p.fail(&d, spec.Line, ErrField.New("spec is not a mapping."))
	} else {
		d.lines, d.raw = map[string]int{}, []int{spec.Line}
		p.value(&d, spec, "", &raw, 0)
	}
	if len(p.found) > before {
		return
	}
	spec, err := d.Kind.Decode(raw.Bytes())
	if err != nil {
		line, err := d.inSpec(err)
		p.fail(&d, line, err)
		return
	}
	d.Spec = spec
	key := d.Kind.Name() + "\x00" + d.Name
	if first, ok := p.seen[key]; ok {
		p.fail(&d, 0, ErrDuplicate.New("The first is at %s.", first))
		return
	}
	p.seen[key] = fmt.Sprintf("%s:%d", d.File, d.Line)
	p.out = append(p.out, d)
}

// inSpec says a fault of the strict decoder in the words of documents: its line
// and column are those of JSON that nobody wrote, each key of which is on a line of
// its own.
func (d *Document) inSpec(err error) (line int, out error) {
	f := fault.From(err)
	at, ok := f.Members["line"].(int)
	path, _ := f.Members["path"].(string)
	if !ok {
		return 0, err
	}
	if at > 0 && at <= len(d.raw) {
		line = d.raw[at-1]
	}
	where := "spec"
	if path != "" {
		where += "." + path
	}
	detail := strings.TrimPrefix(f.Detail, fmt.Sprintf("Line %d, column %v, in %s: ", at, f.Members["column"], strictjson.Path(path)))
	return line, ErrField.Wrap(err, "%s: %s", where, detail)
}

// mapping reads a mapping with known keys.
func (p *parser) mapping(d *Document, n *yaml.Node, what string, keys ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode || n.Anchor != "" {
		p.fail(d, n.Line, ErrField.New("%s is not a mapping.", what))
		return nil
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || !slices.Contains(keys, k.Value):
			p.fail(d, k.Line, ErrField.New("%s has the field %s.", what, strictjson.Quote(k.Value)))
		case out[k.Value] != nil:
			p.fail(d, k.Line, ErrTwice.New("%s", k.Value))
		default:
			out[k.Value] = n.Content[i+1]
		}
	}
	return out
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?$`)

// value writes a node as JSON, in the order of its keys.
func (p *parser) value(d *Document, n *yaml.Node, path strictjson.Path, out *bytes.Buffer, depth int) {
	if path != "" {
		d.lines[string(path)] = n.Line
	}
	switch {
	case depth > maxDepth:
		p.fail(d, n.Line, ErrLimit.New("%s is nested more than %d deep.", path, maxDepth))
		return
	case n.Anchor != "" || n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0:
		p.fail(d, n.Line, ErrForm.New("%s has an anchor, an alias or a tag.", path))
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			switch {
			case k.Kind != yaml.ScalarNode || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0 || k.ShortTag() == "!!merge":
				p.fail(d, k.Line, ErrForm.New("%s has a key that is not a plain word.", path))
				continue
			case seen[k.Value]:
				p.fail(d, k.Line, ErrTwice.New("%s", path.Key(k.Value)))
				continue
			}
			seen[k.Value] = true
			if len(seen) > 1 {
				out.WriteByte(',')
			}
			d.newLine(out, k.Line)
			writeText(out, k.Value)
			out.WriteByte(':')
			p.value(d, n.Content[i+1], path.Key(k.Value), out, depth+1)
			d.lines[string(path.Key(k.Value))] = k.Line
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			d.newLine(out, c.Line)
			p.value(d, c, path.Index(i), out, depth+1)
		}
		out.WriteByte(']')
	case yaml.ScalarNode:
		p.scalar(d, n, path, out)
	default:
		p.fail(d, n.Line, ErrForm.New("%s", path))
	}
}

func (p *parser) scalar(d *Document, n *yaml.Node, path strictjson.Path, out *bytes.Buffer) {
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp": // a date is the text that it looks like, as in JSON
		writeText(out, n.Value)
	case "!!null":
		out.WriteString("null")
	case "!!bool":
		if n.Value != "true" && n.Value != "false" {
			p.fail(d, n.Line, ErrForm.New("%s is %s.", path, strictjson.Quote(n.Value)))
		}
		out.WriteString(n.Value)
	case "!!int", "!!float":
		if !jsonNumber.MatchString(n.Value) {
			p.fail(d, n.Line, ErrForm.New("%s is %s.", path, strictjson.Quote(n.Value)))
		}
		out.WriteString(n.Value)
	default:
		p.fail(d, n.Line, ErrForm.New("%s has the tag %s.", path, strictjson.Quote(tag)))
	}
}

// newLine begins a line of the spec's JSON, for something at a line of the file.
func (d *Document) newLine(out *bytes.Buffer, line int) {
	out.WriteByte('\n')
	d.raw = append(d.raw, line)
}

func writeText(out *bytes.Buffer, s string) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.Encode(s)
	out.Truncate(out.Len() - 1) // the encoder's line end
}

// Decode reads a spec into a kind's type, strictly.
func Decode[T any](raw []byte) (Spec, error) {
	var v T
	if err := strictjson.Decode(raw, &v); err != nil {
		return nil, err
	}
	return v, nil
}
