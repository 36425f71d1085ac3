// Package sntp asks a time server what time it is (SNTP, RFC 4330; the packet is
// that of NTP version 4, RFC 5905, Section 7.3).
//
// It promises little: one question, one answer over UDP, nothing set. The answer
// is not authenticated, so it is a second opinion about the clock of this
// machine (S38) and never a source of time for certificates. A question holds no
// time of ours, only a random number that the answer must repeat, so that nobody
// off the path can answer for the server.
//
// Start reading at query.go.
package sntp
