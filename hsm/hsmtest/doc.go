// Package hsmtest gives tests a real token: SoftHSM by [SoftHSM], a SoftHSM
// behind a p11-kit server by [Server].
//
// Each test has a token, a configuration and a copy of the module of its own,
// so that tests may run in parallel and one may take its token away without
// another noticing. What is not installed skips the test with the command that
// installs it; where CI=true or HALLMARK_CI=1 it fails the test.
package hsmtest
