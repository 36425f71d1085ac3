// Package tlogtest holds what every implementation of [tlog.Store] is tested
// with: [Test], the contract as a suite, and [Memory], the store of tests.
package tlogtest
