package ceremony

// Seal signs a transcript that a test made up.
var Seal = seal

// Words of the list, for a test of the list itself.
var WordList = wordList

// The field of the parts of a PIN.
var (
	GFMul = gfMul
	GFInv = gfInv
)
