package policy

import (
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// Limits of the cloud service. MaxLength is held here; the other two by
// whoever attaches policies and keeps their versions.
const (
	MaxLength   = 2048 // characters of a document, white space not counted
	MaxAttached = 10   // policies of one principal
	MaxVersions = 5    // of one policy
)

const (
	maxBytes = 64 << 10 // of a document: white space is not counted, but has to be read
	maxDepth = 8        // document, statements, statement, conditions, operator, values: six, and slack for the error message to name what is wrong
	maxSid   = 128      // characters; it stands in explanations and logs
	maxName  = 128      // characters of an attribute's name, as in the registry
	maxList  = 5        // values of a certificate attribute that are looked at
	maxValue = 1024     // characters of a value that may stand for a variable
	maxNum   = 64       // characters of a number
)

// length counts a document's characters as the limit does.
func length(doc []byte) int {
	n := 0
	for _, b := range doc {
		if b != ' ' && b != '\t' && b != '\r' && b != '\n' && utf8.RuneStart(b) {
			n++
		}
	}
	return n
}

func bounds() strictjson.Option {
	return strictjson.WithLimits(strictjson.Limits{Size: maxBytes, Depth: maxDepth})
}
