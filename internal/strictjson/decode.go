package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Decode reads the one JSON value in data into v, a non-nil pointer, by the
// rules of encoding/json and the stricter ones of this package. Numbers in
// values of type any become [json.Number]. A null leaves its field as it was:
// use a pointer where that must be told from the zero value. After an error
// the content of v is undefined.
func Decode(data []byte, v any, opts ...Option) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("strictjson: decode into %T, which is no usable pointer", v)
	}
	s := newScanner(data, opts)
	if _, err := s.document(target.Type().Elem()); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return s.decodeFault(err)
	}
	return nil
}

// Generic reads the one JSON value in data as nil, bool, [json.Number],
// string, []any or map[string]any.
func Generic(data []byte, opts ...Option) (any, error) {
	s := newScanner(data, opts)
	s.build = true
	return s.document(nil)
}

// Check reports whether data is one acceptable JSON value.
func Check(data []byte, opts ...Option) error {
	_, err := newScanner(data, opts).document(nil)
	return err
}

// decodeFault turns an error of encoding/json into a fault. The text was
// checked before, so only types and ranges can be wrong.
func (s *scanner) decodeFault(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return ErrWrongType.Wrap(err, "A value cannot be used.")
	}
	s.pos = min(max(int(wrong.Offset), 0), len(s.data))
	f := s.in(ErrWrongType, Path(wrong.Field), "want "+wanted(wrong.Type))
	f.Cause = err
	return f
}

// wanted says in JSON's words what a Go type takes.
func wanted(t reflect.Type) string {
	if t == nil {
		return "another type"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number in range"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, not negative, in range"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Pointer:
		return wanted(t.Elem())
	}
	return "another type"
}
