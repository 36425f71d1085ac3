package declare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/internal/fault"
)

// The tests keep two kinds of objects in a map, with a transaction that can be
// taken back.
type world struct {
	rows  map[string]Spec
	tries int
	fail  error // of the next put
}

func newWorld() *world { return &world{rows: map[string]Spec{}} }

func (w *world) atomic(ctx context.Context, fn func(context.Context) error) error {
	before := map[string]Spec{}
	for k, v := range w.rows {
		before[k] = v
	}
	w.tries++
	err := fn(ctx)
	if err != nil {
		w.rows = before
	}
	return err
}

type boxSpec struct {
	Size   int               `json:"size,omitempty"`
	In     string            `json:"in,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	List   []string          `json:"list,omitempty"`
	Body   *Body             `json:"body,omitempty"`
	Proof  string            `json:"proof,omitempty"`
}

func (b boxSpec) Above() string { return b.In }
func (b boxSpec) Public() Spec  { b.Proof = ""; return b }

type boxKind struct {
	*world
	name  string
	right access.Action
}

var errNoBox = fault.Define(fault.NotFound, "test-declare-no-box", "There is no such box.", "Make it.")

func (k boxKind) Name() string                        { return k.name }
func (k boxKind) Sees() access.Action                 { return access.ReadThingTypes }
func (k boxKind) Decode(raw []byte) (Spec, error)     { return Decode[boxSpec](raw) }
func (k boxKind) key(s access.Scope, n string) string { return s.Tenant + "/" + k.name + "/" + n }

func (k boxKind) Read(_ context.Context, s access.Scope, name string) (Spec, error) {
	return k.rows[k.key(s, name)], nil
}

func (k boxKind) List(_ context.Context, s access.Scope, after string, limit int) (names []string, next string, err error) {
	for key := range k.rows {
		if n, ok := strings.CutPrefix(key, k.key(s, "")); ok && n > after {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if len(names) > limit {
		return names[:limit], names[limit-1], nil
	}
	return names, "", nil
}

func (k boxKind) Judge(_ context.Context, _ access.Scope, _ string, was, want Spec) (Verdict, error) {
	if was != nil && was.(boxSpec).In != want.(boxSpec).In {
		return Verdict{}, ErrImmutable.New("A box stays where it is.").With("path", "in")
	}
	return Verdict{Rights: []access.Action{k.right}, Notes: []string{"noted"}}, nil
}

func (k boxKind) Put(_ context.Context, by access.Actor, name string, _, want Spec) (Outcome, error) {
	w := want.(boxSpec)
	if w.In != "" && k.rows[k.key(by.Scope(), w.In)] == nil {
		return Outcome{}, errNoBox.New("%s.", w.In).With("path", "in")
	}
	if k.fail != nil {
		return Outcome{}, k.fail
	}
	k.rows[k.key(by.Scope(), name)] = w.Public()
	return Outcome{Secret: "s-" + name}, nil
}

var (
	fleetOp = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "fred", Role: access.FleetOperator}
	auditor = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "ann", Role: access.Auditor}
	plat    = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "pat", Role: access.Platform}
	cm      = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "max", Role: access.CMManager}
)

func (w *world) kinds() []Kind {
	return []Kind{boxKind{w, "Box", access.PutThingType}, boxKind{w, "Vault", access.PutHook}}
}

func (w *world) planner() *Planner { return New(Config{Kinds: w.kinds(), Atomic: w.atomic}) }

func doc(kind, name, spec string) string {
	return "apiVersion: hallmark/v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func one(text string) []File { return []File{{"a.yaml", text}} }

// found are the places and codes of a refusal.
func found(t *testing.T, err error) (out []string) {
	t.Helper()
	var f *fault.Fault
	if !errors.As(err, &f) || f.Definition != ErrRefused {
		t.Fatalf("got %v", err)
	}
	for _, e := range f.Members["errors"].([]Finding) {
		out = append(out, fmt.Sprintf("%s:%d %s", e.File, e.Line, e.Code))
	}
	return out
}

func TestParse_EveryMistakeOfAllFilesAtItsLine(t *testing.T) {
	files := []File{
		{"a.yaml", `# a comment
apiVersion: hallmark/v2
kind: Box
metadata: {name: a}
spec: {size: 1}
---
apiVersion: hallmark/v1
kind: Crate
metadata: {name: b, colour: red}
spec:
  size: 1
  size: 2
---
# nothing here
---
apiVersion: hallmark/v1
kind: Box
metadata:
  name: c
spec:
  size: big
---
apiVersion: hallmark/v1
kind: Box
metadata: {name: c2}
spec:
  labels: {x: &anchor y}
  list: [*anchor]
`},
		{"b.yaml", `apiVersion: hallmark/v1
kind: Box
metadata:
  name: d
spec:
  labels:
    x: y
  colour: red
---
apiVersion: hallmark/v1
kind: Box
metadata: {name: d}
spec: {}
---
apiVersion: hallmark/v1
kind: Box
metadata: {name: d}
spec: {size: 2}
---
kind: Box
---
- a list
---
apiVersion: hallmark/v1
kind: Box
metadata: {name: e}
spec: {size: 0x10, labels: {a: !!binary aGk=, b: True}}
`},
		{"c.yaml", "apiVersion: hallmark/v1\nkind: [\n"},
		{"d.yaml", "\xff\xfe"},
	}
	_, err := Parse(files, newWorld().kinds())
	want := []string{
		"a.yaml:2 declare-version", "a.yaml:8 declare-kind", "a.yaml:9 declare-field", "a.yaml:12 declare-key-twice", "a.yaml:21 declare-field",
		"a.yaml:27 declare-form", "a.yaml:28 declare-form",
		"b.yaml:8 declare-field", "b.yaml:15 declare-document-twice", "b.yaml:20 declare-field", "b.yaml:20 declare-field", "b.yaml:20 declare-field",
		"b.yaml:22 declare-field", "b.yaml:27 declare-form", "b.yaml:27 declare-form", "b.yaml:27 declare-form",
		"c.yaml:2 declare-yaml", "d.yaml:1 declare-yaml",
	}
	if got := found(t, err); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := Parse(one("# nothing\n"), newWorld().kinds()); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
	if _, err := Parse(one(strings.Repeat(doc("Box", "x", "{}")+"---\n", MaxDocuments+2)), newWorld().kinds()); err == nil {
		t.Error("too many documents are taken")
	}
	deep := doc("Box", "x", "{body: {a: "+strings.Repeat("[", 40)+strings.Repeat("]", 40)+"}}")
	if got := found(t, func() error { _, err := Parse(one(deep), newWorld().kinds()); return err }()); len(got) == 0 || got[0] != "a.yaml:4 declare-limit" {
		t.Error(got)
	}
}

// A text that looks like a date, a number or a truth is what YAML 1.2's core and
// JSON both make of it, or it is refused; it never silently changes.
func TestParse_ScalarsAreJSONs(t *testing.T) {
	docs, err := Parse(one(doc("Box", "x", `{body: {v: 2012-10-17, n: 12, f: -1.5e3, s: "12", t: true, y: yes, z: ~, e: "", u: "\u00e9<&>"}}`)), newWorld().kinds())
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	json.Unmarshal([]byte(docs[0].Spec.(boxSpec).Body.Text()), &got)
	json.Unmarshal([]byte(`{"v":"2012-10-17","n":12,"f":-1.5e3,"s":"12","t":true,"y":"yes","z":null,"e":"","u":"é<&>"}`), &want)
	if !same(got, want) {
		t.Errorf("%v", got)
	}
}

func TestPlan_ShowsTriesAndChangesNothing(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	p := w.planner()
	// What is below comes first in the file; it is put after what it lies in.
	text := doc("Box", "small", "{in: big, size: 1}") + "---\n" + doc("Vault", "v", "{}") + "---\n" + doc("Box", "big", "{size: 9, proof: abc, labels: {b: x, a: y}}")
	plan, err := p.Plan(ctx, fleetOp, one(text))
	if err != nil {
		t.Fatal(err)
	}
	todo, waiting, unchanged := plan.Count()
	if len(w.rows) != 0 || plan.Applied || todo != 2 || waiting != 1 || unchanged != 0 {
		t.Fatalf("%+v %v", plan, w.rows)
	}
	big, small, vault := plan.Items[0], plan.Items[1], plan.Items[2]
	if big.Name != "big" || small.Name != "small" || vault.Waits != "hook.put" || !slices.Equal(vault.Roles, []string{"platform"}) || big.Secret != "" || big.Line != 11 {
		t.Errorf("%+v", plan.Items)
	}
	if fmt.Sprint(big.Changes) != "[{labels.a  \"y\"} {labels.b  \"x\"} {size  9}]" { // the proof is no difference
		t.Errorf("%v", big.Changes)
	}
	done, err := p.Apply(ctx, fleetOp, one(text), plan.Hash)
	if err != nil || !done.Applied || len(w.rows) != 2 || done.Items[0].Secret != "s-big" || done.Items[2].Secret != "" {
		t.Fatalf("%+v %v", done, err)
	}
	// The other person applies the same files; nothing but the vault is left.
	plan, err = p.Plan(ctx, plat, one(text))
	if todo, waiting, unchanged = plan.Count(); err != nil || todo != 1 || waiting != 0 || unchanged != 2 {
		t.Fatalf("%+v %v", plan, err)
	}
	if _, err := p.Apply(ctx, plat, one(text), plan.Hash); err != nil {
		t.Fatal(err)
	}
	tries := w.tries
	plan, err = p.Plan(ctx, plat, one(text))
	if todo, _, unchanged = plan.Count(); err != nil || todo != 0 || unchanged != 3 || w.tries != tries {
		t.Errorf("%+v %v: nothing to do takes the writer", plan, err)
	}
}

func TestApply_DoesWhatWasShownOrNothing(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	p := w.planner()
	text := doc("Box", "a", "{size: 2}") + "---\n" + doc("Box", "b", "{size: 2}")
	plan, err := p.Plan(ctx, fleetOp, one(text))
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"other documents": func() error {
			_, err := p.Apply(ctx, fleetOp, one(strings.Replace(text, "2", "3", 1)), plan.Hash)
			return err
		},
		"one document less": func() error {
			_, err := p.Apply(ctx, fleetOp, one(doc("Box", "a", "{size: 2}")), plan.Hash)
			return err
		},
		"another's rights": func() error { _, err := p.Apply(ctx, auditor, one(text), plan.Hash); return err },
		"another tenant": func() error {
			by := fleetOp
			by.Tenant = "other"
			_, err := p.Apply(ctx, by, one(text), plan.Hash)
			return err
		},
		"a hidden proof more": func() error {
			_, err := p.Apply(ctx, fleetOp, one(strings.Replace(text, "{size", "{proof: x, size", 1)), plan.Hash)
			return err
		},
		"a changed world": func() error {
			w.rows["main/Box/a"] = boxSpec{Size: 1}
			defer func() { delete(w.rows, "main/Box/a") }()
			_, err := p.Apply(ctx, fleetOp, one(text), plan.Hash)
			if w.rows["main/Box/a"].(boxSpec).Size != 1 {
				t.Error("the other's change is gone")
			}
			return err
		},
	} {
		if err := do(); !errors.Is(err, ErrStale) || len(w.rows) != 0 {
			t.Errorf("%s: %v %v", what, err, w.rows)
		}
	}
	// In other files and another order, with remarks: the same documents.
	moved := []File{{"z.yaml", "\n\n" + doc("Box", "b", "\n  size: 2")}, {"a.yaml", doc("Box", "a", "{ size: 2 } # two")}}
	if _, err := p.Apply(ctx, fleetOp, moved, plan.Hash); err != nil {
		t.Error(err)
	}
}

func TestPlan_MistakesOfTheWorldAreToldAtOnceToo(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	p := w.planner()
	w.rows["main/Box/here"] = boxSpec{In: "there"}
	text := doc("Box", "good", "{}") + "---\n" + doc("Box", "a", "{in: none}") + "---\n" + doc("Box", "b", "\n  size: 1\n  in: nowhere")
	_, err := p.Plan(ctx, fleetOp, one(text))
	if got := found(t, err); !slices.Equal(got, []string{"a.yaml:9 test-declare-no-box", "a.yaml:16 test-declare-no-box"}) {
		t.Error(got)
	}
	_, err = p.Plan(ctx, fleetOp, one(doc("Box", "here", "{in: elsewhere}")+"---\n"+doc("Vault", "v", "{}")))
	if got := found(t, err); !slices.Equal(got, []string{"a.yaml:4 declare-immutable"}) {
		t.Error(got)
	}
	if !strings.Contains(err.Error(), "one mistake") || !strings.Contains(err.Error(), "Vault v.") {
		t.Errorf("%v", err) // what waits may be what is missing
	}
	w.fail = errors.New("the disk is gone")
	if _, err := p.Plan(ctx, fleetOp, one(doc("Box", "x", "{}"))); !errors.Is(err, w.fail) {
		t.Errorf("trouble of our own is %v", err)
	}
	// Who may not see gets no difference.
	w.fail = nil
	plan, err := p.Plan(ctx, cm, one(doc("Box", "here", "{in: elsewhere}")))
	if err != nil || plan.Items[0].Waits != string(access.ReadThingTypes) || plan.Items[0].Changes != nil {
		t.Errorf("%+v %v", plan, err)
	}
}

func TestExport_IsReadBackAndCutIntoPages(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	p := w.planner()
	body := NewBody(`{"z":1,"a":["2012-10-17","1","true","~","",null,1.50,{"k":{}}],"e":{},"l":[]}`)
	for i, s := range []boxSpec{{}, {Size: 3, Body: &body}, {Labels: map[string]string{"y": "no", "12": "-", "<<": "=", "a: b": "# c", " s ": "\t", "\u00a0": "\u2028", "\x7f": "\u0085"}},
		{List: []string{"one\ntwo\n", "one\n", "\n", " a\nb", "a \nb", "a\n\n", "a\r\nb", "-----BEGIN X-----\nAA==\n-----END X-----\n", "\ufeff", "é😀", "'", `"`, "\\", "%", "@", "`", "?", ": ", "null", "0x10", "1_000", "1e3", ".inf", "<<"}}} {
		w.rows[fmt.Sprintf("main/Box/b%d", i)] = s
	}
	var docs []Written
	for after := ""; ; {
		page, next, err := p.Export(ctx, auditor, "Box", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, page...)
		if after = next; next == "" {
			break
		}
	}
	if len(docs) != 4 {
		t.Fatalf("%d documents", len(docs))
	}
	var all []string
	for _, d := range docs {
		all = append(all, d.Text)
	}
	text := strings.Join(all, "---\n")
	plan, err := p.Plan(ctx, plat, one(text))
	if _, _, n := plan.Count(); err != nil || n != 4 {
		t.Fatalf("%+v %v\n%s", plan, err, text)
	}
	// Elsewhere the same files make the same files.
	other := newWorld()
	q := other.planner()
	if plan, err = q.Plan(ctx, plat, one(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Apply(ctx, plat, one(text), plan.Hash); err != nil {
		t.Fatal(err)
	}
	again, _, err := q.Export(ctx, auditor, "Box", "", 100)
	if err != nil || !slices.Equal(docs, again) {
		t.Errorf("%v\n%v", docs, again)
	}
	if _, _, err := p.Export(ctx, cm, "Box", "", 3); !errors.Is(err, access.ErrForbidden) {
		t.Error(err)
	}
	if _, _, err := p.Export(ctx, auditor, "Crate", "", 3); !errors.Is(err, ErrKind) {
		t.Error(err)
	}
}

func TestDifference_NamesFieldsInTheirOrder(t *testing.T) {
	list := func(n int) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = i
		}
		return out
	}
	got := difference(map[string]any{"l": list(12), "x.y": "a", "x": map[string]any{"y": "a"}, "gone": nil}, map[string]any{"l": list(2), "x.y": "b", "x": map[string]any{"y": "a"}, "new": map[string]any{}})
	var paths []string
	for _, c := range got {
		paths = append(paths, c.Path)
	}
	if want := strings.Fields(`["x.y"] gone l[2] l[3] l[4] l[5] l[6] l[7] l[8] l[9] l[10] l[11] new`); !slices.Equal(paths, want) {
		t.Errorf("%q", paths)
	}
	long := difference(nil, map[string]any{"a": strings.Repeat("é", maxShown)})
	if len(long) != 1 || len(long[0].After) > maxShown+40 || !strings.HasSuffix(long[0].After, "octets)") {
		t.Errorf("%d", len(long[0].After))
	}
}

// Whatever a file holds, reading it ends in documents or in findings with a place;
// and documents that are read are written so that they are read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", doc("Box", "a", "{size: 1}"), doc("Box", "a", "{body: {a: [1, {b: ~}]}, labels: {x: y}}"), doc("Vault", "é", "\n  list:\n  - |\n    a\n    b\n  - >-\n    c\n"),
		"a: &a [*a]", "<<: {a: b}", "--- |\n x\n---\n...\n%YAML 1.1\n---\n!!str a", "{a: b, a: c}", "? [x]\n: y", "spec: {? {}: 1}", "\t", "a: 'b\n\n c'", "apiVersion: hallmark/v1\nkind: Box\nmetadata: {name: 12}\nspec: {labels: {1: 2012-10-17, t: 1e999, b: off}}",
		doc("Box", "a", `{body: "{\"x\": 1}", list: ["\u2028\u0085\ufeff\x07"]}`)} {
		f.Add(s)
	}
	kinds := newWorld().kinds()
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := Parse([]File{{"f", text}}, kinds)
		var refusal *fault.Fault
		if err != nil {
			if !errors.As(err, &refusal) {
				t.Fatalf("%v", err)
			}
			list, _ := refusal.Members["errors"].([]Finding)
			for _, g := range list {
				if g.File != "f" || g.Line < 1 || g.Code == "" || g.Message == "" || g.Code == "internal" {
					t.Fatalf("%+v", g)
				}
			}
			return
		}
		for _, d := range docs {
			if _, err := Write(d.Kind, d.Name, d.Spec); err != nil {
				t.Fatalf("%v of %q", err, text)
			}
		}
	})
}
