package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hallmark/api"
)

// contract is api/openapi.yaml, as far as requests are held to it. It knows the
// part of JSON Schema that the document uses and refuses to load any other, so
// that a limit which is written there is never silently ignored.
type contract struct {
	operations map[string]*operation // "GET /api/v1/orders/{order}"
	schemas    map[string]*schema
}

type operation struct {
	ID     string
	Tag    string
	Path   map[string]parameter
	Query  map[string]parameter
	Body   *schema // of application/json
	Status string  // of success
	Answer *schema
}

type parameter struct {
	Required bool
	Schema   *schema
}

type schema struct {
	Ref         string             `yaml:"$ref"`
	Type        string             `yaml:"type"`
	Format      string             `yaml:"format"`
	Required    []string           `yaml:"required"`
	Properties  map[string]*schema `yaml:"properties"`
	Additional  yaml.Node          `yaml:"additionalProperties"`
	Items       *schema            `yaml:"items"`
	Enum        []string           `yaml:"enum"`
	Pattern     string             `yaml:"pattern"`
	MinLength   int                `yaml:"minLength"`
	MaxLength   *int               `yaml:"maxLength"`
	Minimum     *int64             `yaml:"minimum"`
	Maximum     *int64             `yaml:"maximum"`
	MinItems    int                `yaml:"minItems"`
	MaxItems    *int               `yaml:"maxItems"`
	MaxProps    *int               `yaml:"maxProperties"`
	Description string             `yaml:"description"`
	GoType      string             `yaml:"x-go-type"`
	GoPointer   *bool              `yaml:"x-go-type-skip-optional-pointer"`

	re     *regexp.Regexp
	others *schema // of additional members; nil if there are none to be
	open   bool    // additional members of any kind
}

// loadContract reads the document, once.
var loadContract = sync.OnceValues(readContract)

func readContract() (*contract, error) {
	type param struct {
		Ref         string  `yaml:"$ref"`
		Name        string  `yaml:"name"`
		In          string  `yaml:"in"`
		Required    bool    `yaml:"required"`
		Description string  `yaml:"description"`
		Schema      *schema `yaml:"schema"`
	}
	type media map[string]struct {
		Schema *schema `yaml:"schema"`
	}
	var doc struct {
		Paths map[string]map[string]struct {
			ID         string   `yaml:"operationId"`
			Tags       []string `yaml:"tags"`
			Parameters []param  `yaml:"parameters"`
			Body       struct {
				Content media `yaml:"content"`
			} `yaml:"requestBody"`
			Responses map[string]struct {
				Content media `yaml:"content"`
			} `yaml:"responses"`
		} `yaml:"paths"`
		Components struct {
			Parameters map[string]param   `yaml:"parameters"`
			Schemas    map[string]*schema `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		return nil, fmt.Errorf("web: the interface description: %w", err)
	}
	c := &contract{operations: map[string]*operation{}, schemas: doc.Components.Schemas}
	for name, s := range c.schemas {
		if err := s.compile(name); err != nil {
			return nil, err
		}
	}
	for path, methods := range doc.Paths {
		for method, o := range methods {
			op := &operation{ID: o.ID, Tag: o.Tags[0], Path: map[string]parameter{}, Query: map[string]parameter{}}
			for _, p := range o.Parameters {
				if p.Ref != "" {
					p = doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
				}
				if err := p.Schema.compile(o.ID + " " + p.Name); err != nil {
					return nil, err
				}
				switch p.In {
				case "path":
					op.Path[p.Name] = parameter{true, p.Schema}
				case "query":
					op.Query[p.Name] = parameter{p.Required, p.Schema}
				}
			}
			if m, ok := o.Body.Content["application/json"]; ok {
				op.Body = m.Schema
				if err := op.Body.compile(o.ID); err != nil {
					return nil, err
				}
			}
			for status, r := range o.Responses {
				if status != "default" {
					op.Status, op.Answer = status, r.Content["application/json"].Schema
				}
			}
			c.operations[strings.ToUpper(method)+" "+path] = op
		}
	}
	return c, nil
}

func (s *schema) compile(where string) (err error) {
	if s == nil {
		return fmt.Errorf("web: the interface description: %s has no schema", where)
	}
	if s.Pattern != "" {
		if s.re, err = regexp.Compile(s.Pattern); err != nil {
			return fmt.Errorf("web: the interface description: %s: %w", where, err)
		}
	}
	switch s.Additional.Kind {
	case yaml.ScalarNode:
		s.open = s.Additional.Value == "true"
	case yaml.MappingNode:
		s.others = &schema{}
		if err := s.Additional.Decode(s.others); err != nil {
			return err
		}
		if err := s.others.compile(where); err != nil {
			return err
		}
	}
	for name, p := range s.Properties {
		if err := p.compile(where + "." + name); err != nil {
			return err
		}
	}
	if s.Items != nil {
		return s.Items.compile(where + "[]")
	}
	return nil
}

func (c *contract) find(method, pattern string) *operation {
	return c.operations[method+" "+pattern]
}

func wrong(path, detail string, args ...any) error {
	return ErrContract.New("%s %s.", path, fmt.Sprintf(detail, args...)).With("path", path)
}

// check holds a value, as strictjson.Generic reads it, to a schema.
func (c *contract) check(s *schema, v any, path string) error {
	if s.Ref != "" {
		s = c.schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	switch s.Type {
	case "object":
		return c.checkObject(s, v, path)
	case "array":
		list, ok := v.([]any)
		switch {
		case !ok:
			return wrong(path, "is not an array")
		case len(list) < s.MinItems:
			return wrong(path, "has fewer than %d items", s.MinItems)
		case s.MaxItems != nil && len(list) > *s.MaxItems:
			return wrong(path, "has more than %d items", *s.MaxItems)
		}
		for i, item := range list {
			if err := c.check(s.Items, item, path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			return wrong(path, "is not a string")
		}
		return s.checkText(text, path)
	case "integer":
		n, ok := v.(json.Number)
		i, err := n.Int64()
		if !ok || err != nil {
			return wrong(path, "is not a whole number")
		}
		return s.checkNumber(i, path)
	case "number":
		n, ok := v.(json.Number)
		f, err := n.Float64()
		if !ok || err != nil {
			return wrong(path, "is not a number")
		}
		return s.checkFraction(f, path)
	case "boolean":
		if _, ok := v.(bool); !ok {
			return wrong(path, "is not true or false")
		}
	}
	return nil
}

func (c *contract) checkObject(s *schema, v any, path string) error {
	object, ok := v.(map[string]any)
	if !ok {
		return wrong(path, "is not an object")
	}
	if s.MaxProps != nil && len(object) > *s.MaxProps {
		return wrong(path, "has more than %d members", *s.MaxProps)
	}
	for _, name := range s.Required {
		if _, ok := object[name]; !ok {
			return wrong(path+"."+name, "is missing")
		}
	}
	for name, value := range object {
		p := s.Properties[name]
		switch {
		case p == nil && s.others != nil:
			p = s.others
		case p == nil && s.open:
			continue
		case p == nil:
			return wrong(path, "has the member %.80q, which is not known", name)
		}
		if err := c.check(p, value, path+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func (s *schema) checkText(text, path string) error {
	n := utf8.RuneCountInString(text)
	switch {
	case n < s.MinLength:
		return wrong(path, "is empty")
	case s.MaxLength != nil && n > *s.MaxLength:
		return wrong(path, "is longer than %d characters", *s.MaxLength)
	case s.re != nil && !s.re.MatchString(text):
		return wrong(path, "does not match %s", s.Pattern)
	case len(s.Enum) > 0:
		for _, e := range s.Enum {
			if e == text {
				return nil
			}
		}
		return wrong(path, "is not one of %s", strings.Join(s.Enum, ", "))
	}
	return nil
}

func (s *schema) checkNumber(n int64, path string) error {
	if s.Minimum != nil && n < *s.Minimum {
		return wrong(path, "is less than %d", *s.Minimum)
	}
	if s.Maximum != nil && n > *s.Maximum {
		return wrong(path, "is more than %d", *s.Maximum)
	}
	return nil
}

func (s *schema) checkFraction(n float64, path string) error {
	if s.Minimum != nil && n < float64(*s.Minimum) {
		return wrong(path, "is less than %d", *s.Minimum)
	}
	if s.Maximum != nil && n > float64(*s.Maximum) {
		return wrong(path, "is more than %d", *s.Maximum)
	}
	return nil
}

// checkQuery refuses parameters that are unknown, given twice or out of their
// limits.
func (o *operation) checkQuery(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, ErrContract.New("The query is malformed.")
	}
	for name, values := range q {
		p, ok := o.Query[name]
		if !ok {
			return nil, ErrContract.New("There is no parameter %.80q.", name)
		}
		if len(values) != 1 {
			return nil, ErrContract.New("The parameter %s is given %d times.", name, len(values))
		}
		if err := p.Schema.checkParameter(values[0], name); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (s *schema) checkParameter(text, name string) error {
	switch s.Type {
	case "boolean":
		if text != "true" && text != "false" {
			return wrong(name, "is neither true nor false")
		}
		return nil
	case "integer":
	default:
		return s.checkText(text, name)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return wrong(name, "is not a whole number")
	}
	return s.checkNumber(n, name)
}
