// Package fsck is the one word that all consistency checks share: each domain
// has its own check, and the command joins what they find.
package fsck

// Finding is something that should not be so.
type Finding struct {
	Check  string // stable name of the rule, for example "crl-revoked-listed"
	Object string // what it is about: a table and key, an authority and serial number
	Detail string // one sentence for people
}

// String is the form for people.
func (f Finding) String() string { return f.Check + ": " + f.Object + ": " + f.Detail }
