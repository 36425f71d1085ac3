package store

import (
	"context"
	"database/sql"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// What bounds a search.
const (
	fewMatches   = 1000                  // so few are always looked at first
	manyMatches  = 8_192                 // more matches of a range are not sorted: all things are looked at in order
	searchFor    = 15 * time.Millisecond // then a page ends early: whoever asks goes on with the next
	firstChunk   = 128                   // things looked at by one statement, at first
	sortedChunk  = 1024                  // and if they have to be sorted
	lastChunk    = 2048                  // and at most
	estimateFor  = 30 * time.Second      // how long a count of many matches is remembered
	maxEstimates = 4096
)

// sqlText collects a statement and its values.
type sqlText struct {
	strings.Builder
	args []any
}

func (q *sqlText) bind(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// termCondition writes what a term asks of a row of the index, whose alias is as.
// hide keeps an engine from finding the row by its value: where the thing is
// known, that is the longer way.
func (q *sqlText) termCondition(as string, tenant string, t *registry.Term, hide bool) {
	q.WriteString(as + ".tenant = " + tenant + " AND " + as + ".field = " + q.bind(t.Field))
	compare := func(column, op string, v any) {
		column = as + "." + column
		switch {
		case hide && column == as+".text":
			column = "(" + column + " || '')"
		case hide:
			column = "(" + column + " + 0)"
		}
		q.WriteString(" AND " + column + op + q.bind(v))
	}
	switch t.Kind {
	case registry.TermEqual:
		if t.Numeric {
			compare("number", " = ", t.Number)
		} else {
			compare("text", " = ", t.Text)
		}
	case registry.TermPattern:
		if p := t.Prefix(); p != "" {
			compare("text", " >= ", p)
			compare("text", " < ", p+"\U0010ffff")
		}
		if n := len(t.Pattern); !(n == 2 && t.Pattern[0].Kind == 0 && t.Pattern[1].Kind == '*') {
			compare("text", " LIKE ", like(t.Pattern))
			q.WriteString(` ESCAPE '\'`)
		}
	case registry.TermRange:
		column := "text"
		if t.Numeric {
			column = "number"
		}
		end := func(b *registry.Bound, op string) {
			if !b.Set {
				return
			}
			if b.Closed {
				op += "="
			}
			if t.Numeric {
				compare(column, " "+op+" ", b.Number)
			} else {
				compare(column, " "+op+" ", b.Text)
			}
		}
		end(&t.Lo, ">")
		end(&t.Hi, "<")
		if t.Numeric && !hide {
			q.WriteString(" AND " + as + ".number IS NOT NULL")
		}
	}
}

// like is a pattern in SQL's words. Texts in the index are folded, so that it does
// not matter which engine minds the case.
func like(p []registry.Wild) string {
	var b strings.Builder
	for _, w := range p {
		switch w.Kind {
		case '*':
			b.WriteByte('%')
		case '?':
			b.WriteByte('_')
		default:
			b.WriteString(strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(w.Text))
		}
	}
	return b.String()
}

// condition writes whether the thing in the column named by thing fits a node, of
// which it is known that it fits the part covered.
func (q *sqlText) condition(n, covered *registry.Node, tenant, thing string) {
	if n == covered || n.Kind == registry.NodeAll {
		q.WriteString("1 = 1")
		return
	}
	switch n.Kind {
	case registry.NodeTerm:
		q.WriteString("EXISTS (SELECT 1 FROM thing_index x WHERE x.thing = " + thing + " AND ")
		q.termCondition("x", tenant, &n.Term, n.Term.Kind != registry.TermEqual || n.Term.Numeric)
		q.WriteString(")")
	case registry.NodeNot:
		q.WriteString("NOT (")
		q.condition(n.Kids[0], covered, tenant, thing)
		q.WriteString(")")
	default:
		word := " AND "
		if n.Kind == registry.NodeOr {
			word = " OR "
		}
		for i, k := range n.Kids {
			if i > 0 {
				q.WriteString(word)
			}
			q.WriteString("(")
			q.condition(k, covered, tenant, thing)
			q.WriteString(")")
		}
	}
}

// plan says where a search takes its candidates from: the union of terms, or all
// things if there are none.
type plan struct {
	terms   []*registry.Term
	covered *registry.Node // the part of the filter that every candidate fits
	cost    int64          // about how many there are; negative if only all things will do
}

// everything is the plan that looks at all things.
var everything = plan{cost: -1}

// sorting is how much dearer a candidate is that has to be sorted.
const sorting = 4

// driver chooses the candidates of a node.
func (db *DB) driver(ctx context.Context, tenant string, n *registry.Node) (plan, error) {
	switch n.Kind {
	case registry.NodeTerm:
		about, err := db.estimate(ctx, tenant, &n.Term, fewMatches)
		if err == nil && about >= fewMatches {
			about, err = db.estimate(ctx, tenant, &n.Term, manyMatches)
			if !ordered(&n.Term) {
				if about >= manyMatches {
					return everything, err
				}
				about *= sorting
			}
		}
		return plan{[]*registry.Term{&n.Term}, n, about}, err
	case registry.NodeAnd:
		return db.narrowest(ctx, tenant, n.Kids)
	case registry.NodeOr:
		out := plan{covered: n}
		for _, k := range n.Kids {
			p, err := db.driver(ctx, tenant, k)
			if err != nil || p.cost < 0 {
				return everything, err
			}
			out.terms, out.cost = append(out.terms, p.terms...), out.cost+p.cost
			if p.covered != k {
				out.covered = nil
			}
		}
		return out, nil
	}
	return everything, nil
}

// narrowest looks at the terms of an AND for few matches first, which is cheap,
// and counts further only where none has few.
func (db *DB) narrowest(ctx context.Context, tenant string, kids []*registry.Node) (plan, error) {
	best := everything
	better := func(p plan) {
		if p.cost >= 0 && (best.cost < 0 || p.cost < best.cost) {
			best = p
		}
	}
	for _, k := range kids {
		if k.Kind != registry.NodeTerm {
			continue
		}
		n, err := db.estimate(ctx, tenant, &k.Term, fewMatches)
		if err != nil {
			return everything, err
		}
		if n < fewMatches {
			better(plan{[]*registry.Term{&k.Term}, k, n})
		}
	}
	if best.cost >= 0 {
		return best, nil
	}
	for _, k := range kids {
		p, err := db.driver(ctx, tenant, k)
		if err != nil {
			return everything, err
		}
		better(p)
	}
	return best, nil
}

// ordered tells whether the index gives a term's things in their order.
func ordered(t *registry.Term) bool { return t.Kind == registry.TermEqual }

// estimates remembers how many matches terms with many of them had.
var estimates struct {
	sync.Mutex
	m map[string]estimate
}

type estimate struct {
	n     int64
	until time.Time
}

// estimate counts the matches of a term, up to a limit.
func (db *DB) estimate(ctx context.Context, tenant string, t *registry.Term, limit int64) (n int64, err error) {
	var q sqlText
	q.WriteString(`SELECT COUNT(*) FROM (SELECT 1 AS one FROM thing_index i WHERE `)
	q.termCondition("i", q.bind(tenant), t, false)
	q.WriteString(` LIMIT ` + q.bind(limit) + `) AS few`)
	key := ""
	if limit > fewMatches {
		var b strings.Builder
		b.WriteString(db.cfg.URL)
		for _, a := range q.args {
			b.WriteByte(0)
			b.WriteString(toString(a))
		}
		key = b.String() + "\x00" + q.String()
		now := db.now()
		estimates.Lock()
		e, ok := estimates.m[key]
		estimates.Unlock()
		if ok && now.Before(e.until) {
			return e.n, nil
		}
	}
	if err := db.countOnce(ctx, &q, &n); err != nil {
		return 0, err
	}
	if key != "" {
		estimates.Lock()
		defer estimates.Unlock()
		if estimates.m == nil || len(estimates.m) >= maxEstimates {
			estimates.m = map[string]estimate{}
		}
		estimates.m[key] = estimate{n, db.now().Add(estimateFor)}
	}
	return n, nil
}

func toString(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return "?"
}

// SearchIndex implements [registry.IndexStore]. It takes candidates in the order
// of their names from where there are fewest, and looks at the rest of the filter
// for each of them, a growing number with each statement.
func (db *DB) SearchIndex(ctx context.Context, s access.Scope, f *registry.Filter, after string, limit int) (found []fleet.ThingName, next string, err error) {
	after = fold(after)
	p, err := db.driver(ctx, s.Tenant, f.Root)
	if err != nil {
		return nil, "", err
	}
	chunk := max(limit+1, firstChunk)
	switch {
	case f.Root.Kind == registry.NodeAll || p.covered == f.Root:
		chunk = limit + 1
	case slices.ContainsFunc(p.terms, func(t *registry.Term) bool { return !ordered(t) }):
		chunk = max(chunk, sortedChunk) // sorted anew by every statement
	}
	for start := time.Now(); ; {
		last, n := "", 0
		full := false
		rows, err := db.searchChunk(ctx, s.Tenant, f, &p, after, chunk)
		err = each(rows, err, func(r row) error {
			var folded string
			var fits int
			if err := r.Scan(&folded, &fits); err != nil {
				return err
			}
			n++
			if folded == last || full {
				return nil // two values of one thing; or more than was asked for
			}
			if fits == 1 && len(found) == limit {
				full = true
				return nil
			}
			last = folded
			if fits == 1 {
				found = append(found, fleet.ThingName(folded))
			}
			return nil
		})
		if err != nil {
			return nil, "", err
		}
		if last != "" {
			after = last
		}
		switch {
		case full:
			return found, after, nil
		case n < chunk:
			return found, "", nil
		}
		if time.Since(start) >= searchFor {
			return found, after, nil
		}
		chunk = min(chunk*2, lastChunk)
	}
}

// searchChunk reads candidates after one, in order, and whether each fits.
func (db *DB) searchChunk(ctx context.Context, tenant string, f *registry.Filter, p *plan, after string, limit int) (*sql.Rows, error) {
	var q sqlText
	t := q.bind(tenant)
	from := q.bind(after)
	most := q.bind(limit)
	q.WriteString(`SELECT c.thing, CASE WHEN `)
	q.condition(f.Root, p.covered, t, "c.thing")
	q.WriteString(` THEN 1 ELSE 0 END FROM (`)
	branch := func(term *registry.Term, distinct string) {
		// What the index does not give in order is found by its values; no engine
		// shall prefer going through all things because they are in order.
		thing := "i.thing"
		if !ordered(term) {
			thing = "(i.thing || '')"
		}
		q.WriteString(`SELECT ` + distinct + thing + ` AS thing FROM thing_index i WHERE `)
		q.termCondition("i", t, term, false)
		q.WriteString(` AND ` + thing + ` > ` + from + ` ORDER BY 1 LIMIT ` + most)
	}
	switch len(p.terms) {
	case 0:
		q.WriteString(`SELECT d.folded AS thing FROM things d WHERE d.tenant = ` + t + ` AND d.folded > ` + from + ` ORDER BY d.folded LIMIT ` + most)
	case 1:
		branch(p.terms[0], "")
	default:
		q.WriteString(`SELECT thing FROM (`)
		for i, term := range p.terms {
			if i > 0 {
				q.WriteString(` UNION `)
			}
			q.WriteString(`SELECT thing FROM (`)
			branch(term, "DISTINCT ")
			q.WriteString(`) AS b` + strconv.Itoa(i))
		}
		q.WriteString(`) AS u ORDER BY thing LIMIT ` + most)
	}
	q.WriteString(`) AS c ORDER BY c.thing`)
	return db.queryOnce(ctx, q.String(), q.args...)
}

// CountIndex implements [registry.IndexStore].
func (db *DB) CountIndex(ctx context.Context, s access.Scope, f *registry.Filter) (n int64, err error) {
	var q sqlText
	t := q.bind(s.Tenant)
	switch {
	case f.Root.Kind == registry.NodeTerm:
		what := `COUNT(*)`
		if !ordered(&f.Root.Term) || f.Root.Term.Numeric {
			what = `COUNT(DISTINCT i.thing)`
		}
		q.WriteString(`SELECT ` + what + ` FROM thing_index i WHERE `)
		q.termCondition("i", t, &f.Root.Term, false)
	default:
		q.WriteString(`SELECT COUNT(*) FROM things d WHERE d.tenant = ` + t + ` AND (`)
		q.condition(f.Root, nil, t, "d.folded")
		q.WriteString(`)`)
	}
	err = db.countOnce(ctx, &q, &n)
	return n, err
}

// queryOnce is query for a statement that is not kept prepared: queries have
// more forms than a process should remember.
func (db *DB) queryOnce(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if txFrom(ctx) != nil {
		return db.query(ctx, query, args...)
	}
	rows, err := db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	return rows, nil
}

func (db *DB) countOnce(ctx context.Context, q *sqlText, n *int64) error {
	rows, err := db.queryOnce(ctx, q.String(), q.args...)
	return each(rows, err, func(r row) error { return r.Scan(n) })
}

// ThingsNamed implements [registry.IndexStore]: the things and their attributes
// in two statements.
func (db *DB) ThingsNamed(ctx context.Context, s access.Scope, names []fleet.ThingName) ([]registry.Thing, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var q sqlText
	t := q.bind(s.Tenant)
	// A power of two of them, so that there are few texts, which stay prepared: reading
	// the text of a page of 100 takes as long as finding its rows.
	list := make([]string, 1<<bits.Len(uint(len(names)-1)))
	for i := range list {
		list[i] = q.bind(names[min(i, len(names)-1)].Fold())
	}
	in := strings.Join(list, ", ")
	attributes := map[string]map[string]string{}
	rows, err := db.query(ctx, `SELECT thing, key, value FROM thing_attributes WHERE tenant = `+t+` AND thing IN (`+in+`)`, q.args...)
	err = each(rows, err, func(r row) error {
		var thing, k, v string
		err := r.Scan(&thing, &k, &v)
		if attributes[thing] == nil {
			attributes[thing] = map[string]string{}
		}
		attributes[thing][k] = v
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []registry.Thing
	rows, err = db.query(ctx, `SELECT `+thingColumns+` FROM things t WHERE t.tenant = `+t+` AND t.folded IN (`+in+`) ORDER BY t.folded`, q.args...)
	err = each(rows, err, func(row row) error {
		var r thingRow
		if err := row.Scan(r.dest()...); err != nil {
			return err
		}
		r.attributes = attributes[r.foldedN]
		if r.attributes == nil {
			r.attributes = map[string]string{}
		}
		thing, err := db.believe(&r)
		out = append(out, thing)
		return err
	})
	return out, err
}
