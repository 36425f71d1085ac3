package station

import (
	"bytes"
	"context"
	"log/slog"

	"hallmark/api/factoryapi"
	"hallmark/ca/tlog"
	"hallmark/internal/strictjson"
	"hallmark/station/spool"
)

// ReceiptSource is where receipts come from; [uplink.Client] is one.
type ReceiptSource interface {
	Receipts(ctx context.Context, serials []string) (factoryapi.ReceiptAnswer, error)
}

// receiptBatch is how many are asked for at once.
const receiptBatch = 100

// CollectReceipts fetches what the journal's committed units still lack,
// verifies each receipt and keeps it, and returns how many are kept now and how
// many wait for the log's next checkpoint. It is not on the way of a unit: a
// station that is cut off collects them when the service is back.
func CollectReceipts(ctx context.Context, from ReceiptSource, journal *spool.Spool, keep *spool.Receipts, log *slog.Logger) (kept, waiting int, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	missing := map[string]spool.Unit{}
	var serials []string
	for _, u := range journal.Made() {
		if !keep.Has(u.Serial) {
			missing[u.Serial] = u
			serials = append(serials, u.Serial)
		}
	}
	for len(serials) > 0 {
		part := serials[:min(len(serials), receiptBatch)]
		serials = serials[len(part):]
		a, err := from.Receipts(ctx, part)
		if err != nil {
			return kept, len(missing) - kept, err
		}
		if key := keep.LogKey(); key != "" && key != a.LogKey {
			return kept, len(missing) - kept, spool.ErrLogKey.New("It was %.80s, the service says %.80s.", key, a.LogKey)
		}
		good := map[string][]byte{}
		for _, r := range a.Receipts {
			u, asked := missing[r.Serial]
			if !asked {
				continue
			}
			if err := checkReceipt(r.Receipt, a.LogKey, u); err != nil {
				log.ErrorContext(ctx, "receipt of the transparency log does not hold", "unit", u.Unit, "serial", u.Serial, "error", err)
				continue
			}
			good[r.Serial] = r.Receipt
		}
		if len(good) == 0 {
			continue
		}
		if err := keep.Put(a.LogKey, good); err != nil {
			return kept, len(missing) - kept, err
		}
		kept += len(good)
	}
	return kept, len(missing) - kept, nil
}

// checkReceipt: it proves what this station put into the device.
func checkReceipt(text []byte, logKey string, u spool.Unit) error {
	var r tlog.Receipt
	if err := strictjson.Decode(text, &r); err != nil {
		return tlog.ErrReceipt.Wrap(err, "It cannot be read.")
	}
	if _, err := tlog.VerifyReceipt(&r, logKey); err != nil {
		return err
	}
	if r.Leaf.Type != tlog.Issue || !bytes.Equal(r.Leaf.Subject[:], u.Fingerprint) {
		return tlog.ErrReceipt.New("It is about another certificate than the unit's.")
	}
	return nil
}
