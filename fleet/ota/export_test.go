package ota

// TryBlocks reads a request for blocks of a file of a size.
func TryBlocks(payload []byte, plain bool, size int64) {
	decode := decodeCBOR
	if plain {
		decode = decodeJSON
	}
	in, err := decode(payload)
	if err != nil {
		return
	}
	list, err := in.blocks(size)
	if err != nil {
		return
	}
	for _, i := range list {
		if i < 0 || i**in.Length >= size || int64(len(list))**in.Length > maxAnswer {
			panic("a block beyond the file, or too many")
		}
	}
}
