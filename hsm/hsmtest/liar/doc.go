// Package liar holds the test of issuance with a token that lies. It is apart
// from the other tests of tokens because it needs a CA and a database.
package liar
