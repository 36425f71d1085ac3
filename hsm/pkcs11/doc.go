// Package pkcs11 keeps keys in PKCS #11 tokens: it loads modules, logs in,
// signs from a fixed set of sessions and recovers from every loss it can.
//
// A token runs a few workers, each with one session of its own, that take
// requests from a queue ordered by lane (S41). A breaker per token closes the
// door at the first sign of death, so that callers learn at once; a background
// loop then reconnects with growing pauses until a test signature verifies
// with the public key seen first.
//
// A call that never returns cannot be ended, so it is left behind. When calls
// hang in a module for longer than a signature may take and two seconds more,
// the instance they are in is given up and the module is loaded again from a
// copy of its file, which is another instance with a state of its own. The
// requests that waited have had their refusal by then, the workers that hang
// are replaced, and an instance whose calls return after all is finalised and
// used again. A process carries eight instances with hanging calls; after that
// requests end with hsm-module-stuck, until calls return or the service is
// restarted. Instances that hang from their first call on follow each other
// with growing pauses. See instance.go.
//
// Invariants, each of which a C module answers with a crash of the process or
// with a locked token when broken:
//   - a session is used by one goroutine at a time;
//   - a module is loaded once per real path, or anew from a copy of the same
//     content, initialised under one mutex, and never destroyed; an instance is
//     finalised only while no call is in it;
//   - handles and sessions are used with the instance that gave them;
//   - the client library of p11-kit takes one call at a time: calls that share
//     its connection hang for ever, some of them, when the connection ends;
//   - nobody logs out; one keeper session per token holds the login;
//   - a token that refused a PIN is not asked again by this process (A23), and
//     one that has not answered to its first PIN gets no second;
//   - a handle is used only in the generation that found it and only after a
//     test signature with it was verified.
//
// A module that crashes takes the process with it, and one that hangs in a
// library which its copies share is not helped by a copy: run such a module
// behind a p11-kit server and load p11-kit-client.so. Tokens on one module share
// its re-initialisation, so tokens of different fate belong behind different
// modules.
//
// Standard: PKCS #11 v3.1. Start reading at [Store.Signer], then worker.go and
// module.go.
package pkcs11
