// Package pkcs11 keeps keys in PKCS #11 tokens: it loads modules, logs in,
// signs from a fixed set of sessions and recovers from every loss it can.
//
// A token runs a few workers, each with one session of its own, that take
// requests from a queue ordered by lane (S41). A breaker per token closes the
// door at the first sign of death, so that callers learn at once; a background
// loop then reconnects with growing pauses until a test signature verifies
// with the public key seen first.
//
// Invariants, each of which a C module answers with a crash of the process or
// with a locked token when broken:
//   - a session is used by one goroutine at a time;
//   - a module is loaded once per real path, initialised under one mutex, and
//     never destroyed; it is finalised only while no call is in flight;
//   - nobody logs out; one keeper session per token holds the login;
//   - a token that refused a PIN is not asked again by this process (A23);
//   - a handle is used only in the generation that found it and only after a
//     test signature with it was verified.
//
// A module that hangs or crashes inside a call cannot be cured from within:
// run such a module behind a p11-kit server and load p11-kit-client.so.
// Tokens on one module share its re-initialisation, so tokens of different
// fate belong behind different modules.
//
// Standard: PKCS #11 v3.1. Start reading at [Store.Signer], then worker.go.
package pkcs11
