// Package state is what the ACME server remembers: external account keys,
// accounts, orders and spent nonces. It has the rows and the contract of their
// store, and nothing of the protocol, so that the database needs none of it.
//
// Start reading at [Store].
package state
