package strictjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// fields maps the member names a struct type takes to the types behind them.
type fields map[string]reflect.Type

func (f fields) names() []string {
	list := make([]string, 0, len(f))
	for name := range f {
		list = append(list, name)
	}
	return list
}

// otherCase reports whether name is a known one but for its case.
func (f fields) otherCase(name string) bool {
	for known := range f {
		if strings.EqualFold(known, name) {
			return true
		}
	}
	return false
}

var (
	known       sync.Map // reflect.Type → fields
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	texter      = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// shape follows pointers to what decides about members. It is nil where
// anything goes: interfaces, and types that read their own JSON.
func shape(t reflect.Type) reflect.Type {
	for t != nil {
		if t.Implements(unmarshaler) || t.Implements(texter) ||
			reflect.PointerTo(t).Implements(unmarshaler) || reflect.PointerTo(t).Implements(texter) {
			return nil
		}
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
		case reflect.Interface:
			return nil
		default:
			return t
		}
	}
	return nil
}

func fieldsOf(t reflect.Type) fields {
	if f, ok := known.Load(t); ok {
		return f.(fields)
	}
	f := fields{}
	f.add(t, map[reflect.Type]bool{})
	known.Store(t, f)
	return f
}

// add collects t's own fields before those of embedded structs, because the
// outer one hides the inner.
func (f fields) add(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	var embedded []reflect.Type
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		tag := field.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		if field.Anonymous && name == "" {
			inner := field.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				embedded = append(embedded, inner)
				continue
			}
		}
		if !field.IsExported() {
			continue
		}
		if name == "" {
			name = field.Name
		}
		if _, ok := f[name]; !ok {
			f[name] = field.Type
		}
	}
	for _, inner := range embedded {
		f.add(inner, seen)
	}
}
