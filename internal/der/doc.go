// Package der writes and reads DER by hand, where speed or an octet that
// crypto/x509 hides makes that worth it (ITU-T X.690, Section 10).
//
// Writers are functions that append one element to a slice and return it, so a
// whole structure is built in one buffer. A structure whose length is not known
// yet is opened with [Begin] and closed with [End], or given as a function to
// [Sequence], [Set] and [Wrap].
//
// The writers return no error. A value that has no DER form (an object
// identifier of one arc, the year 10000) becomes an element with empty content,
// which no reader of that type accepts: such a mistake is refused by whoever
// parses the result, it never turns into another value.
//
// The reader takes DER and nothing else: [Next] reads one element, [Only]
// insists on exactly one, [Check] walks everything with a limit on depth. It
// never copies and never allocates by a length it was told.
//
// Start reading at [Begin] and [Next].
package der
