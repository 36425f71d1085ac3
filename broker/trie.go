package broker

import "strings"

// trie finds the values whose topic filters match a topic, level by level. The
// zero value is empty. It does no locking.
type trie[V any] struct {
	root node[V]
	// hashWithoutParent is [Limits.HashWithoutParent].
	hashWithoutParent bool
}

type node[V any] struct {
	level    string
	few      []*node[V] // children up to fewChildren, then
	many     map[string]*node[V]
	plus     *node[V]
	hash     *node[V]
	value    V
	occupied bool
}

// fewChildren is up to how many children a list is as fast as a map, and much
// smaller: most levels of a device's topics have one to three.
const fewChildren = 8

func (n *node[V]) child(level string) *node[V] {
	if n.many != nil {
		return n.many[level]
	}
	for _, c := range n.few {
		if c.level == level {
			return c
		}
	}
	return nil
}

func (n *node[V]) grow(level string) *node[V] {
	switch level {
	case "+":
		if n.plus == nil {
			n.plus = &node[V]{level: "+"}
		}
		return n.plus
	case "#":
		if n.hash == nil {
			n.hash = &node[V]{level: "#"}
		}
		return n.hash
	}
	if c := n.child(level); c != nil {
		return c
	}
	c := &node[V]{level: strings.Clone(level)}
	switch {
	case n.many != nil:
		n.many[c.level] = c
	case len(n.few) < fewChildren:
		n.few = append(n.few, c)
	default:
		n.many = make(map[string]*node[V], 2*fewChildren)
		for _, o := range n.few {
			n.many[o.level] = o
		}
		n.few, n.many[c.level] = nil, c
	}
	return c
}

func (n *node[V]) drop(c *node[V]) {
	switch {
	case c == n.plus:
		n.plus = nil
	case c == n.hash:
		n.hash = nil
	case n.many != nil:
		delete(n.many, c.level)
	default:
		for i, o := range n.few {
			if o == c {
				last := len(n.few) - 1
				n.few[i], n.few[last] = n.few[last], nil
				n.few = n.few[:last]
				return
			}
		}
	}
}

func (n *node[V]) empty() bool {
	return !n.occupied && len(n.few) == 0 && len(n.many) == 0 && n.plus == nil && n.hash == nil
}

// at gives the place of a filter and marks it as occupied.
func (t *trie[V]) at(filter string) *V {
	n := &t.root
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		n = n.grow(level)
	}
	n.occupied = true
	return &n.value
}

// find gives the place of a filter, nil if it is not occupied.
func (t *trie[V]) find(filter string) *V {
	n := &t.root
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		switch level {
		case "+":
			n = n.plus
		case "#":
			n = n.hash
		default:
			n = n.child(level)
		}
		if n == nil {
			return nil
		}
	}
	if !n.occupied {
		return nil
	}
	return &n.value
}

// remove empties the place of a filter, and the way to it.
func (t *trie[V]) remove(filter string) {
	var cut func(n *node[V], rest string, more bool)
	cut = func(n *node[V], rest string, more bool) {
		if !more {
			var zero V
			n.value, n.occupied = zero, false
			return
		}
		level, rest, more := strings.Cut(rest, "/")
		var c *node[V]
		switch level {
		case "+":
			c = n.plus
		case "#":
			c = n.hash
		default:
			c = n.child(level)
		}
		if c == nil {
			return
		}
		cut(c, rest, more)
		if c.empty() {
			n.drop(c)
		}
	}
	cut(&t.root, filter, true)
}

// match calls fn for the value of every filter that matches a topic.
func (t *trie[V]) match(topic string, fn func(*V)) {
	// A filter that begins with a wildcard does not match a topic that begins
	// with $ [MQTT-4.7.2-1].
	t.walk(&t.root, topic, !strings.HasPrefix(topic, "$"), fn)
}

func (t *trie[V]) walk(n *node[V], rest string, wild bool, fn func(*V)) {
	for {
		level, tail, more := strings.Cut(rest, "/")
		if wild {
			if n.hash != nil && n.hash.occupied {
				fn(&n.hash.value)
			}
			if n.plus != nil {
				if more {
					t.walk(n.plus, tail, true, fn)
				} else {
					t.last(n.plus, fn)
				}
			}
		}
		if n = n.child(level); n == nil {
			return
		}
		if !more {
			t.last(n, fn)
			return
		}
		rest, wild = tail, true
	}
}

// last is the end of a topic: the node itself, and a # below it, which includes
// its parent level (MQTT 5, Section 4.7.1.2).
func (t *trie[V]) last(n *node[V], fn func(*V)) {
	if n.occupied {
		fn(&n.value)
	}
	if n.hash != nil && n.hash.occupied && !t.hashWithoutParent {
		fn(&n.hash.value)
	}
}

// topics calls fn for every value whose own path, a topic without wildcards, is
// matched by a filter; fn returns false to stop. It is how retained messages are found.
func (t *trie[V]) topics(filter string, fn func(*V) bool) {
	t.under(&t.root, filter, true, fn)
}

func (t *trie[V]) under(n *node[V], filter string, first bool, fn func(*V) bool) bool {
	level, rest, more := strings.Cut(filter, "/")
	switch level {
	case "#":
		if !first && n.occupied && !t.hashWithoutParent && !fn(&n.value) {
			return false
		}
		return t.all(n, first, fn)
	case "+":
		return n.children(func(c *node[V]) bool {
			if first && strings.HasPrefix(c.level, "$") {
				return true
			}
			return t.step(c, rest, more, fn)
		})
	}
	c := n.child(level)
	return c == nil || t.step(c, rest, more, fn)
}

func (t *trie[V]) step(c *node[V], rest string, more bool, fn func(*V) bool) bool {
	if more {
		return t.under(c, rest, false, fn)
	}
	return !c.occupied || fn(&c.value)
}

func (t *trie[V]) all(n *node[V], first bool, fn func(*V) bool) bool {
	return n.children(func(c *node[V]) bool {
		if first && strings.HasPrefix(c.level, "$") {
			return true
		}
		return (!c.occupied || fn(&c.value)) && t.all(c, false, fn)
	})
}

// paths calls fn for every filter that is occupied.
func (t *trie[V]) paths(n *node[V], at string, first bool, fn func(filter string)) {
	visit := func(c *node[V]) bool {
		path := c.level
		if !first {
			path = at + "/" + c.level
		}
		if c.occupied {
			fn(path)
		}
		t.paths(c, path, false, fn)
		return true
	}
	n.children(visit)
	if n.plus != nil {
		visit(n.plus)
	}
	if n.hash != nil {
		visit(n.hash)
	}
}

func (n *node[V]) children(fn func(*node[V]) bool) bool {
	for _, c := range n.few {
		if !fn(c) {
			return false
		}
	}
	for _, c := range n.many {
		if !fn(c) {
			return false
		}
	}
	return true
}
