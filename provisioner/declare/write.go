package declare

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Write is the document of an object, as [Parse] reads it.
func Write(k Kind, name string, s Spec) (string, error) {
	raw, err := canonical(s)
	if err != nil {
		return "", err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	spec, err := node(dec)
	if err != nil {
		return "", err
	}
	root := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
		scalar("apiVersion"), scalar(APIVersion), scalar("kind"), scalar(k.Name()),
		scalar("metadata"), {Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("name"), scalar(name)}},
		scalar("spec"), spec,
	}}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return "", err
	}
	// YAML has many ways to write a text; that this one is read back is not left to
	// chance.
	back, err := Parse([]File{{name, out.String()}}, []Kind{k})
	if err != nil {
		return "", ErrUnread.Wrap(err, "%s %s", k.Name(), name)
	}
	want, err := tree(s)
	if err != nil {
		return "", err
	}
	if got, err := tree(back[0].Spec); err != nil || len(back) != 1 || back[0].Name != name || !same(got, want) {
		return "", ErrUnread.Wrap(err, "%s %s", k.Name(), name)
	}
	return out.String(), nil
}

// node reads the next JSON value, with its members in their order.
func node(dec *json.Decoder) (*yaml.Node, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v == '{' {
			n.Kind = yaml.MappingNode
		}
		for dec.More() {
			c, err := node(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err := dec.Token()
		return n, err
	case string:
		return scalar(v), nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	case bool:
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "false"}
		if v {
			n.Value = "true"
		}
		return n, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

// scalar is a text. One of several lines is written as a block only if nothing in
// it could be folded, cut or escaped.
func scalar(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	plain := !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (!unicode.IsPrint(r) || r == '\ufeff') })
	switch {
	case !plain:
		n.Style = yaml.DoubleQuotedStyle
	case strings.Contains(s, "\n"):
		n.Style = yaml.DoubleQuotedStyle
		if s[0] != ' ' && s[0] != '\n' && !strings.HasSuffix(s, "\n\n") && !strings.Contains(s, " \n") && s != "\n" {
			n.Style = yaml.LiteralStyle
		}
	case s == "<<" || s == "=":
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
