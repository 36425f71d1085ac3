package ceremony

import (
	"bytes"
	"slices"

	"hallmark/internal/strictjson"
)

// ExchangeSchema names this form of an exchange file.
const ExchangeSchema = "hallmark.exchange/v1"

const maxExchange = 4 << 20

// Exchange carries files between the online side and the air-gapped machine, as
// one file whose words people compare. It has exactly these members, and each
// item its own checksum (S37).
type Exchange struct {
	Schema string         `json:"schema"`
	From   string         `json:"from"` // who packed it, in words
	Items  []ExchangeItem `json:"items"`
}

// ExchangeItem is one file.
type ExchangeItem struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Words  string `json:"words"`
	Data   []byte `json:"data"`
}

// PackExchange makes an exchange file; its words are [WordsOf] of it.
func PackExchange(from string, files map[string][]byte) ([]byte, error) {
	e := Exchange{Schema: ExchangeSchema, From: from, Items: []ExchangeItem{}}
	size := 0
	for n, data := range files {
		if err := exchangeName(n); err != nil {
			return nil, err
		}
		if size += len(data); size > maxExchange {
			return nil, ErrExchange.New("Together they have more than %d octets.", maxExchange)
		}
		e.Items = append(e.Items, ExchangeItem{Name: n, SHA256: hexSum(data), Words: WordsOf(data), Data: data})
	}
	slices.SortFunc(e.Items, func(a, b ExchangeItem) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	out, err := canonical(e)
	if err != nil {
		return nil, ErrExchange.Wrap(err, "It cannot be written.")
	}
	_, err = ReadExchange(out)
	return out, err
}

// ReadExchange takes an exchange file in its one form.
func ReadExchange(data []byte) (*Exchange, error) {
	if len(data) > maxExchange {
		return nil, ErrExchange.New("It has %d octets; at most %d are read.", len(data), maxExchange)
	}
	e := new(Exchange)
	if err := strictjson.Decode(data, e, strictjson.WithLimits(strictjson.Limits{Size: maxExchange, Values: 1024})); err != nil {
		return nil, ErrExchange.Wrap(err, "It is not an exchange file.")
	}
	if again, err := canonical(e); err != nil || !bytes.Equal(again, data) {
		return nil, ErrExchange.Wrap(err, "It is not in the canonical form, or a member is missing.")
	}
	if e.Schema != ExchangeSchema || len(e.From) == 0 || len(e.From) > 200 || len(e.Items) == 0 || len(e.Items) > 64 {
		return nil, ErrExchange.New("It has another schema, no sender, or no items or too many.")
	}
	last := ""
	for _, i := range e.Items {
		switch {
		case exchangeName(i.Name) != nil || i.Name <= last:
			return nil, ErrExchange.New("The name %.60q is no name of a file, or not in order.", i.Name)
		case hexSum(i.Data) != i.SHA256 || WordsOf(i.Data) != i.Words:
			return nil, ErrExchange.New("Hash or words are not those of %s.", i.Name)
		}
		last = i.Name
	}
	return e, nil
}

func exchangeName(n string) error {
	if fileName(n) != nil {
		return ErrExchange.New("%.60q is not the name of a file.", n)
	}
	for _, c := range n {
		if c < 0x21 || c > 0x7e {
			return ErrExchange.New("%.60q has characters that names of files here do not have.", n)
		}
	}
	return nil
}
