// Package policy is the language in which device policies are written: who may
// connect, publish, subscribe and receive what. Its documents are those of AWS
// IoT Core, which follow the grammar of IAM.
//
// Promise: the same document, context and question have the same answer on
// every node, and [Bound.Allows], [Set.Allows] and [Set.Explain] agree. The
// package does no I/O and reads no clock.
//
// Invariants:
//
//   - Nothing is allowed that no statement allows, and nothing that one denies;
//     the order of policies and statements does not matter.
//   - Values never become syntax (S21). A document is taken apart once, and
//     variables are put in as literal text afterwards. A value that holds
//   - $ + ? # or is longer than 1024 characters counts as unknown.
//   - What is compiled is immutable. The check for a message allocates nothing.
//   - A document that [Parse] accepts has no statement that a spelling mistake
//     keeps from acting: unknown actions, resource types, variables, operators
//     and keys are refused.
//
// # Matching
//
// * is any characters across levels, ? is one character (a code point, not an
// octet). + and # are themselves: topicfilter/a/* covers the filter a/#, and a
// Deny of topicfilter/a/secret/* does not stop it; a Deny of Receive does.
// ${*}, ${?} and ${$} are the characters.
//
// A statement with an unknown variable, in whichever of its resources or
// condition values, does not act at all. That is so for Deny too, so a Deny
// should not hang on a variable that a device may lack, and least of all on one
// whose value the device chooses.
//
// A condition whose key is missing does not hold; a negated operator then does.
// ForAllValues holds for an empty set and ForAnyValue does not. Without either,
// a key with several values matches if any value does, and is told apart by a
// negated operator if none does. An empty text is a missing one. The limits on
// values are for putting them into a document: as the key of a condition a
// value is compared as it is, up to the fifth of a list.
//
// # Choices where the reference is silent
//
//   - ARNs: region and account of a document are ignored unless [Partition]
//     names ours; then they have to match it, with wildcards. The ARN before
//     the type may be left out (topic/a), and a slash before the type
//     (arn:...:/thing/T) is dropped. Other resource types are refused.
//   - Actions are spelt exactly; * and ? stand anywhere in them. The older
//     iot: names of the job actions mean the same as iotjobsdata:.
//   - Names of variables and condition keys may be in any case, as in IAM;
//     names of attributes may not. List variables (.List, AvailableKeys,
//     ConnectAttributes) are for conditions only.
//   - iot:ConnectAttributes is about the connection and stays with it: a later
//     Publish sees what CONNECT asked for.
//   - Version is required. An empty list of statements is a policy that allows
//     nothing. Principal does not belong there.
//
// Start reading at [Parse], [Compile] and [Set.Bind].
package policy
