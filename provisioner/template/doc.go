// Package template evaluates provisioning templates: JSON documents that say
// which thing, certificate, policies and device configuration come into being
// when a device provisions itself. The language is that of AWS IoT Core, with
// every function it has.
//
// Promise: evaluation is pure. It does no I/O, reads no clock, and gives the
// same [Result] for the same [Input] every time; what the result names (groups,
// types, policies) is for the caller to look up.
//
// Invariants (S21 of the security decisions):
//
//   - Values never become syntax. A template is parsed into a tree once, and
//     parameters are put into its strings afterwards. A policy document that is
//     built as text with Fn::Sub or Fn::Join is parsed with the holes in it, and
//     a hole may only lie inside a string.
//   - Names that begin with AWS:: come from the service alone.
//   - A parameter that holds * $ + ? # { } or a control character does not get
//     into a policy document: it would widen what the policy allows. The
//     template's own text may hold them.
//   - All work is bounded (limits.go), whatever the template and the parameters.
//
// Choices where the language's documentation is silent: without OverrideSettings
// a difference to what exists is FAIL; parameters that the template does not
// declare are ignored, because a hook may be their reader; ${iot:...} and
// ${aws:...} pass through Fn::Sub unchanged everywhere, and ${!x} gives ${x}.
//
// Start reading at [Parse] and [Template.Evaluate].
package template
