package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hallmark/access"
	"hallmark/fleet"
)

// The index has a row for each value of each field that things are found by.
// Fields of the registry are kept by whatever changes a thing or its
// certificates; other domains bring theirs with Index, under a prefix of their
// own.
const (
	FieldName     = "thingName"
	FieldType     = "thingTypeName"
	FieldGroups   = "thingGroupNames" // static groups and those above them
	FieldBilling  = "billingGroupName"
	FieldVersion  = "version"
	PrefixAttrs   = "attributes"
	PrefixCert    = "certificate"  // status, notAfter (ms), how, authority, id of each attached certificate; algorithm, keySize of those that are not revoked
	PrefixShadow  = "shadow"       // the classic shadow: desired, reported, delta, hasDelta
	PrefixNamed   = "shadow.name." // and the shadow's name
	PrefixOnline  = "connectivity" // connected, timestamp (ms), disconnectReason
	PrefixDefence = "deviceDefender"
)

// What keeps the index small.
const (
	MaxIndexText  = 800 // octets of a value; what follows is not compared
	MaxIndexRows  = 500 // values under one prefix of one thing; others are not found
	maxIndexField = 256
	maxIndexDepth = 10
)

// IndexStore keeps and searches the index. Contract: Index replaces what is
// under the prefix of one thing in the transaction of ctx, or in one of its own,
// and decides anew which dynamic groups the thing is in; of a thing that does
// not exist it keeps nothing. SearchIndex gives up to limit folded names after
// one, in order, and where to go on, "" at the end; it may stop early when it
// had to look at too many, so that a page can be short or empty before the end.
type IndexStore interface {
	Index(ctx context.Context, tenant string, thing fleet.ThingName, prefix string, fields map[string]any) error
	IndexRows(ctx context.Context, s access.Scope, folded, prefix string) ([]Row, error)
	SearchIndex(ctx context.Context, s access.Scope, f *Filter, after string, limit int) (found []fleet.ThingName, next string, err error)
	CountIndex(ctx context.Context, s access.Scope, f *Filter) (int64, error)
	// ThingsNamed gives things in the order of their folded names; names that there
	// are not are left out.
	ThingsNamed(ctx context.Context, s access.Scope, names []fleet.ThingName) ([]Thing, error)
}

// Index takes what another domain knows of a thing into the search.
func (r *Registry) Index(ctx context.Context, tenant string, thing fleet.ThingName, prefix string, fields map[string]any) error {
	return r.store.Index(ctx, tenant, thing, prefix, fields)
}

// Found is a part of a search's result, in the order of the folded names.
type Found struct {
	Things []Thing
	Next   string // cursor of the next page, "" at the end; a page may be short or empty before it
}

// MaxFound is the largest page of a search.
const MaxFound = 500

// Search finds things by a query of the search language.
func (r *Registry) Search(ctx context.Context, s access.Scope, query, cursor string, limit int) (Found, error) {
	f, err := ParseFilter(query)
	if err != nil {
		return Found{}, err
	}
	if limit <= 0 || limit > MaxFound {
		limit = 100
	}
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return Found{}, ErrQuery.New("The cursor is damaged.")
	}
	names, next, err := r.store.SearchIndex(ctx, s, f, string(after), limit)
	if err != nil {
		return Found{}, err
	}
	out := Found{Next: base64.RawURLEncoding.EncodeToString([]byte(next))}
	out.Things, err = r.store.ThingsNamed(ctx, s, names)
	return out, err
}

// Count counts the things that a query finds, all of them.
func (r *Registry) Count(ctx context.Context, s access.Scope, query string) (int64, error) {
	f, err := ParseFilter(query)
	if err != nil {
		return 0, err
	}
	return r.store.CountIndex(ctx, s, f)
}

// Indexed gives what the index has of a thing under a prefix, "" for all.
func (r *Registry) Indexed(ctx context.Context, s access.Scope, thing fleet.ThingName, prefix string) ([]Row, error) {
	return r.store.IndexRows(ctx, s, thing.Fold(), prefix)
}

// Flatten gives the rows of what a domain brings. Objects become dotted names,
// the elements of a list values of one name; null is no value.
func Flatten(prefix string, fields map[string]any) []Row {
	var out []Row
	seen := map[Row]bool{}
	var walk func(name string, v any, depth int)
	add := func(r Row) {
		if r.Text = cut(r.Text); !seen[r] && len(out) < MaxIndexRows {
			seen[r] = true
			out = append(out, r)
		}
	}
	walk = func(name string, v any, depth int) {
		if len(name) > maxIndexField || depth > maxIndexDepth || !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0 {
			return
		}
		switch v := v.(type) {
		case map[string]any:
			for _, k := range sortedKeys(v) {
				walk(name+"."+k, v[k], depth+1)
			}
		case map[string]string:
			for _, k := range sortedKeys(v) {
				walk(name+"."+k, v[k], depth+1)
			}
		case []any:
			for _, e := range v {
				walk(name, e, depth+1)
			}
		case []string:
			for _, e := range v {
				walk(name, e, depth+1)
			}
		case string:
			n, ok := number(strings.ToLower(v))
			add(Row{name, fold(v), n, ok})
		case bool:
			add(Row{Field: name, Text: strconv.FormatBool(v)})
		case json.Number:
			n, ok := number(strings.ToLower(v.String()))
			add(Row{name, fold(v.String()), n, ok})
		case float64:
			add(numberRow(name, v))
		case int:
			add(Row{name, strconv.Itoa(v), float64(v), true})
		case int64:
			add(Row{name, strconv.FormatInt(v, 10), float64(v), true})
		case time.Time:
			if !v.IsZero() {
				add(Row{name, strconv.FormatInt(v.UnixMilli(), 10), float64(v.UnixMilli()), true})
			}
		}
	}
	for _, k := range sortedKeys(fields) {
		if prefix == "" {
			walk(k, fields[k], 0)
		} else {
			walk(prefix+"."+k, fields[k], 0)
		}
	}
	return out
}

func numberRow(name string, v float64) Row {
	text := strconv.FormatFloat(v, 'f', -1, 64)
	n, ok := number(text)
	return Row{name, text, n, ok}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fold is a value as it is compared; what a database cannot hold goes.
func fold(s string) string {
	return strings.ToLower(strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"))
}

// cut shortens a folded value to what is compared.
func cut(s string) string {
	if len(s) <= MaxIndexText {
		return s
	}
	n := MaxIndexText
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// IndexOf is what the registry itself knows of a thing. groups are the names of
// the thing's static groups and of those above them.
func IndexOf(t *Thing, groups []string, principals []Principal) []Row {
	out := Flatten("", map[string]any{FieldName: string(t.Name), FieldGroups: groups, FieldVersion: t.Version})
	if t.Type != "" {
		out = append(out, Flatten("", map[string]any{FieldType: t.Type})...)
	}
	if t.BillingGroup != "" {
		out = append(out, Flatten("", map[string]any{FieldBilling: t.BillingGroup})...)
	}
	out = append(out, Flatten("", map[string]any{PrefixAttrs: t.Attributes})...)
	var status, how, ids, issuers, ends, keys, bits []any
	for i := range principals {
		p := &principals[i]
		s := string(p.Status)
		if p.Revoked {
			s = string(fleet.Revoked)
		}
		status, how, ids, ends = append(status, s), append(how, string(p.How)), append(ids, p.Certificate), append(ends, p.NotAfter)
		if p.Authority != "" {
			issuers = append(issuers, p.Authority)
		}
		if p.Key != "" && s != string(fleet.Revoked) {
			keys, bits = append(keys, p.Key), append(bits, int64(p.KeyBits))
		}
	}
	return append(out, Flatten(PrefixCert, map[string]any{"status": status, "how": how, "id": ids, "authority": issuers, "notAfter": ends, "algorithm": keys, "keySize": bits})...)
}
