package provisioner

import (
	"bytes"
	"context"
	"fmt"

	"hallmark/internal/fsck"
)

// FsckOrder is an order's row with what was counted elsewhere.
type FsckOrder struct {
	Order
	Identities int64 // identities that name the order
	Logged     int64 // different holders with a leaf of issuance under the order
	Err        error // the row could not be read
	ID         string
}

// FsckStore is what [Fsck] reads.
type FsckStore interface {
	EachOrder(ctx context.Context, each func(FsckOrder) error) error
	// BrokenRows reads the tables that are sealed and reports the rows that are not
	// as they were written, and those that are gone.
	BrokenRows(ctx context.Context, report func(object string, err error)) error
}

// Fsck proves that quotas hold: the signed quantity, the counter, the identities
// and the log agree (S32), and stations and codes are what this program wrote.
func Fsck(ctx context.Context, s FsckStore, orders *Orders) (out []fsck.Finding, err error) {
	add := func(check, object, detail string, args ...any) {
		out = append(out, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
	}
	err = s.EachOrder(ctx, func(o FsckOrder) error {
		object := "order " + o.ID
		if o.Err != nil {
			add("order-row", object, "%v", o.Err)
			return nil
		}
		switch o.State {
		case OrderDraft, OrderApproved, OrderOpen, OrderClosed:
		default:
			add("order-state", object, "its state is %q", o.State)
		}
		if o.Used != o.Identities {
			add("order-counter", object, "its counter says %d, there are %d identities", o.Used, o.Identities)
		}
		if o.State == OrderDraft || o.State == OrderClosed && len(o.Envelope) == 0 {
			if o.Used+o.Identities+o.Logged > 0 {
				add("order-state", object, "a draft has units")
			}
			return nil
		}
		signed, err := orders.Verify(o.Envelope)
		if err != nil {
			add("order-signature", object, "%v", err)
			return nil
		}
		canonical, err := signed.Canonical()
		if err != nil || !bytes.Equal(canonical, o.Canonical) {
			add("order-signature", object, "the row says something else than what was signed")
		}
		if o.Identities > signed.Quantity || o.Logged > signed.Quantity {
			add("order-quota", object, "%d units were ordered, %d are identities, %d are in the log", signed.Quantity, o.Identities, o.Logged)
		}
		if o.Logged > o.Identities {
			add("order-quota", object, "the log has %d units, the identities %d", o.Logged, o.Identities)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	err = s.BrokenRows(ctx, func(object string, err error) { add("row-mac", object, "%v", err) })
	return out, err
}
