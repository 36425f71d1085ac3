package shadow

const (
	// MaxDepth is the number of levels below a section. The quota of the original
	// service is 8, the text of its error says 6; we take 8 and keep the text.
	MaxDepth = 8
	// DefaultMaxDocument is the size of both sections of a stored document together.
	DefaultMaxDocument = 8 << 10
	// LargestMaxDocument is the most that [Config.MaxDocument] may allow.
	LargestMaxDocument = 30 << 10
	// MaxToken is the longest clientToken, in bytes.
	MaxToken = 64
	// MaxName is the longest name of a shadow.
	MaxName = 64
	// DefaultInFlight is how many requests for one thing may be under way at once.
	DefaultInFlight = 10

	maxPayload = 128 << 10 // of a request; nulls and white space do not count in a document, reading them costs all the same
	maxValues  = 20_000    // values of a request
	maxNumber  = 400       // characters of a number: a double printed without an exponent has up to 309 before its point
	maxNesting = 64        // of a request that is read at all
	maxTries   = 16        // when other services change the same document at the same time
	maxPage    = 100       // names on a page
)
