package strictjson

// Limits bounds the work one document may cause. Zero means the default.
type Limits struct {
	Size   int // bytes of the document; default 1 MiB, enough for every request body except uploads
	Depth  int // nesting of arrays and objects; default 32, twice what our deepest document has; at most 1000
	Values int // values of all kinds in the document; default 100,000: bounds memory, which is some 50 times a value's text
	Number int // characters of one number; default 64, so that nobody is led into arbitrary precision
}

// The defaults of [Limits].
const (
	DefaultSize   = 1 << 20
	DefaultDepth  = 32
	DefaultValues = 100_000
	DefaultNumber = 64

	maxDepth    = 1000    // the scanner recurses, and a stack is no place for a sender to choose its size
	maxName     = 4096    // bytes of a member name: names are kept and compared, values are not
	maxColumn   = 1 << 16 // columns count characters up to here, bytes in longer lines, which nobody reads
	maxExponent = 3       // digits; 1e999 overflows a float64 and 1e999999999 a patient big.Float
)

func (l Limits) orDefault() Limits {
	pick := func(n, def int) int {
		if n <= 0 {
			return def
		}
		return n
	}
	return Limits{
		Size:   pick(l.Size, DefaultSize),
		Depth:  min(pick(l.Depth, DefaultDepth), maxDepth),
		Values: pick(l.Values, DefaultValues),
		Number: pick(l.Number, DefaultNumber),
	}
}

// Option changes how a document is read.
type Option func(*scanner)

// WithLimits replaces the default limits.
func WithLimits(l Limits) Option { return func(s *scanner) { s.limits = l.orDefault() } }

// AllowUnknownFields lets members without a field pass, for documents that
// others extend. All other rules stay.
func AllowUnknownFields() Option { return func(s *scanner) { s.unknownOK = true } }
