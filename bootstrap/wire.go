package bootstrap

import (
	"encoding/json"
	"reflect"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"hallmark/internal/strictjson"
)

// Format is how payloads are written.
type Format string

// The formats, as in the topics.
const (
	JSON Format = "json"
	CBOR Format = "cbor"
)

// Bounds of a payload: a CSR in PEM, a token and 64 parameters fit.
const (
	maxPayload    = 64 << 10
	maxParameters = 64
	maxNameBytes  = 128
	maxValueBytes = 1024
)

// The CBOR codec (RFC 8949). What two readers could understand differently is
// refused: keys twice, lengths that are not stated, tags, text that is not UTF-8.
var (
	cborReader = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, UTF8: cbor.UTF8RejectInvalid,
		MaxNestedLevels: 4, MaxMapPairs: 128, MaxArrayElements: 16, NaN: cbor.NaNDecodeForbidden, Inf: cbor.InfDecodeForbidden,
		DefaultMapType: reflect.TypeFor[map[string]any](),
	}.DecMode())
	cborWriter = must(cbor.EncOptions{Sort: cbor.SortLengthFirst, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.EncMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // fixed options, checked by every start
	}
	return v
}

// encode writes an answer. Its types hold nothing that has no form.
func (f Format) encode(v any) []byte {
	var b []byte
	var err error
	if f == CBOR {
		b, err = cborWriter.Marshal(v)
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		return nil
	}
	return b
}

// fields is a request as a map. Zero octets mean the same as an empty map.
type fields map[string]any

// decode reads a request. Members that nobody asks for are left alone: firmware
// sends some.
func (f Format) decode(payload []byte) (fields, error) {
	if len(payload) == 0 {
		return fields{}, nil
	}
	if len(payload) > maxPayload {
		return nil, ErrClaimPayload.New("It has %d octets, %d are allowed.", len(payload), maxPayload)
	}
	var v any
	var err error
	if f == CBOR {
		err = cborReader.Unmarshal(payload, &v)
	} else {
		v, err = strictjson.Generic(payload, strictjson.WithLimits(strictjson.Limits{Size: maxPayload, Depth: 4, Values: 256}))
	}
	if err != nil {
		return nil, ErrClaimPayload.Wrap(err, "It is not %s.", f)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, ErrClaimPayload.New("It is no map.")
	}
	return m, nil
}

// text gives a member that is a string; "" if it is not there.
func (m fields) text(name string) (string, error) {
	switch v := m[name].(type) {
	case nil:
		return "", nil
	case string:
		if utf8.ValidString(v) {
			return v, nil
		}
	}
	return "", ErrClaimPayload.New("%s is no text string.", name)
}

// texts gives a member that is a map of strings.
func (m fields) texts(name string) (map[string]string, error) {
	if m[name] == nil {
		return nil, nil
	}
	v, ok := m[name].(map[string]any)
	if !ok {
		return nil, ErrClaimPayload.New("%s is no map.", name)
	}
	return textMap(v, name)
}

func textMap(v map[string]any, name string) (map[string]string, error) {
	if len(v) > maxParameters {
		return nil, ErrClaimPayload.New("%s has %d members, %d are allowed.", name, len(v), maxParameters)
	}
	out := make(map[string]string, len(v))
	for k, x := range v {
		s, ok := x.(string)
		if !ok || !utf8.ValidString(s) {
			return nil, ErrClaimPayload.New("A value of %s is no text string.", name)
		}
		if len(k) > maxNameBytes || len(s) > maxValueBytes {
			return nil, ErrClaimPayload.New("A name of %s is longer than %d octets, or a value than %d.", name, maxNameBytes, maxValueBytes)
		}
		out[k] = s
	}
	return out, nil
}
