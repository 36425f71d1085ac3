// Package catest gives a test an open database with a working CA: a root, a
// device CA and an infrastructure CA with software keys. Everything is real but
// the keys' home.
//
// Start reading at [New].
package catest
