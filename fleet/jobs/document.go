package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"hallmark/fleet"
	"hallmark/internal/strictjson"
)

// Signer makes a URL from which one device can load an artifact until a time.
// It is asked each time a device gets the document.
type Signer func(ctx context.Context, tenant string, thing fleet.ThingName, url string, expires time.Time) (string, error)

const (
	openMark      = "${aws:iot:"
	parameterMark = "parameter:"
	urlMark       = "s3-presigned-url:"
)

// checkDocument tells whether a document is possible, and how many presigned
// URLs it wants once its parameters are in it.
func checkDocument(document string, parameters map[string]string) (urls int, err error) {
	if document == "" || len(document) > MaxDocument || !utf8.ValidString(document) {
		return 0, ErrDocument.New("It has %d bytes.", len(document))
	}
	if err := strictjson.Check([]byte(document)); err != nil {
		return 0, ErrDocument.Wrap(err, "It is not JSON.")
	}
	n := 0
	full, err := substitute(document, parameterMark, func(name string) (string, error) {
		v, ok := parameters[name]
		if !ok {
			return "", ErrDocument.New("The parameter %q has no value.", clip(name))
		}
		n++
		return v, nil
	})
	if err != nil {
		return 0, err
	}
	if len(full) > MaxDocument || strictjson.Check([]byte(full)) != nil {
		return 0, ErrDocument.New("With its parameters it is too large, or no longer JSON.")
	}
	rest, err := substitute(full, urlMark, func(url string) (string, error) {
		if !strings.HasPrefix(url, "https://") || strings.ContainsAny(url, " \"\\<>") {
			return "", ErrDocument.New("A presigned URL has to begin with https://")
		}
		urls++
		return url, nil
	})
	switch {
	case err != nil:
		return 0, err
	case strings.Contains(rest, openMark):
		return 0, ErrDocument.New("It has a substitution that is not known.")
	case n+urls > MaxSubstitutions:
		return 0, ErrDocument.New("It has %d substitutions.", n+urls)
	}
	return urls, nil
}

// substitute replaces every mark of one kind. It works on the text, so that the
// rest of the document stays as it was written, octet by octet; the mark stands
// in a string of JSON, and the value is escaped for that place, so that no value
// can change the document's structure (S21).
func substitute(document, kind string, value func(string) (string, error)) (string, error) {
	mark := openMark + kind
	var out strings.Builder
	for {
		before, after, found := strings.Cut(document, mark)
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed {
			return "", ErrDocument.New("A substitution does not end.")
		}
		var plain string // the name may have escapes of JSON in it, as in https:\/\/
		if err := json.Unmarshal([]byte(`"`+name+`"`), &plain); err != nil {
			return "", ErrDocument.Wrap(err, "A substitution cannot be read.")
		}
		v, err := value(plain)
		if err != nil {
			return "", err
		}
		quoted, err := encode(v)
		if err != nil {
			return "", err
		}
		out.Write(quoted[1 : len(quoted)-1])
		document = rest
	}
}

// documentFor is the document as everybody may see it: with its parameters, and
// with the marks of presigned URLs.
func (s *Spec) documentFor() (string, error) {
	return substitute(s.Document, parameterMark, func(name string) (string, error) { return s.Parameters[name], nil })
}

// render is the document for one device.
func (s *Service) render(ctx context.Context, j *Job, thing fleet.ThingName) (json.RawMessage, error) {
	full, err := j.documentFor()
	if err != nil {
		return nil, err
	}
	seconds := j.Presign.ExpiresInSec
	if seconds == 0 {
		seconds = maxPresign
	}
	expires := s.now().Add(time.Duration(seconds) * time.Second)
	full, err = substitute(full, urlMark, func(url string) (string, error) {
		if s.signer == nil {
			return "", ErrArtifacts.New("")
		}
		return s.signer(ctx, j.Tenant, thing, url, expires)
	})
	return json.RawMessage(full), err
}

// encode writes JSON without the escapes that only web pages need.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
