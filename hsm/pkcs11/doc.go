// Package pkcs11 keeps keys in PKCS #11 tokens: it loads modules, logs in,
// signs from a fixed set of sessions and recovers from every loss it can.
//
// A module runs in a process of its own, which is this same program started
// with a hidden argument, one for each module and configuration (A24). The two
// speak a small protocol over a socket pair: wire.go. A module that crashes
// takes its process with it and no other; one that hangs has its process killed
// when a call is older than a signature may be. Either way the calls in flight
// end with a fault, nobody's PIN is tried again, and another process is started
// and proven with a test signature before it is used. A module can be loaded
// into the service itself instead; what hangs there hangs until it returns.
//
// A token runs a few workers, each with one session of its own, that take
// requests from a queue ordered by lane (S41). A breaker per token closes the
// door at the first sign of death, so that callers learn at once; a background
// loop then reconnects with growing pauses until a test signature verifies
// with the public key seen first.
//
// Invariants, each of which a C module answers with a crash of its process or
// with a locked token when broken:
//   - a session is used by one goroutine at a time;
//   - a module is loaded once per process and configuration, initialised under
//     one mutex, and never destroyed; it is finalised only while no call is in it;
//   - handles and sessions are used with the instance that gave them;
//   - the client library of p11-kit takes one call at a time: calls that share
//     its connection hang for ever, some of them, when the connection ends;
//   - nobody logs out; one keeper session per token holds the login;
//   - a token that refused a PIN is not asked again by this process (A23), and
//     one that has not answered to its first PIN gets no second;
//   - a handle is used only in the generation that found it and only after a
//     test signature with it was verified;
//   - a module's process gets the configuration of its module and the socket:
//     no other variable, no file, no terminal. PINs go over the socket only and
//     are wiped on both sides. It ends with the service, whatever it is doing.
//
// Tokens on one module share its process, so tokens of different fate belong
// behind different modules or configurations.
//
// Standard: PKCS #11 v3.1. Start reading at [Store.Signer], then worker.go,
// module.go, process.go and child_linux.go.
package pkcs11
