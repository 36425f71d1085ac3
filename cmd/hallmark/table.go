package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// table writes aligned columns under a header. Without rows it writes what to
// do instead.
func table(w io.Writer, header []string, rows [][]string, empty string) {
	if len(rows) == 0 {
		fmt.Fprintln(w, empty)
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = visible(r[i])
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// facts writes name and value, one a line; empty values are left out.
func facts(w io.Writer, pairs ...string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], visible(pairs[i+1]))
		}
	}
	t.Flush()
}

// visible replaces what would drive the terminal: names come from devices.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, s)
}

// moment is a time for people, in UTC; "" for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// day is the date of a time.
func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// dash stands for an empty cell, so that columns can be cut by programs.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// optional is nil for the zero value: a query parameter that is not sent.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// pageLimit is how much one request of a listing command asks for.
const pageLimit = 500

// gather follows the cursors of a list until its end or max items.
func gather[T any](max int, page func(cursor *string, limit int) (items []T, next string, err error)) ([]T, bool, error) {
	out := []T{}
	for cursor := ""; ; {
		limit := pageLimit
		if max > 0 {
			limit = min(limit, max-len(out))
		}
		items, next, err := page(optional(cursor), limit)
		if err != nil {
			return nil, false, err
		}
		out = append(out, items...)
		if next == "" {
			return out, false, nil
		}
		if max > 0 && len(out) >= max {
			return out, true, nil
		}
		cursor = next
	}
}

// more tells that a listing was cut.
func more(w io.Writer, cut bool, n int) {
	if cut {
		fmt.Fprintf(w, "\nThe first %d; there are more. Use --limit 0 for all.\n", n)
	}
}
