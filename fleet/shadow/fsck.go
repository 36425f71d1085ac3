package shadow

import (
	"context"

	"hallmark/internal/fsck"
)

// Fsck proves from what is stored that every shadow is as we wrote it: the row's
// MAC, a document whose metadata has the shape of its state, and none where it
// is deleted.
func (s *Service) Fsck(ctx context.Context) (out []fsck.Finding, err error) {
	err = s.store.EachShadow(ctx, func(r Row, broken error) error {
		object := "shadows " + r.Tenant + "/" + string(r.Thing) + "/" + r.Name
		report := func(check, detail string) {
			out = append(out, fsck.Finding{Check: check, Object: object, Detail: detail})
		}
		if broken != nil {
			report("shadow-tampered", "The row is not as it was written.")
			return nil
		}
		if r.Deleted {
			if len(r.Document) > 0 {
				report("shadow-deleted-document", "It is deleted and still has a document.")
			}
			return nil
		}
		if _, err := UnmarshalDocument(r.Document); err != nil {
			report("shadow-document", "Its document cannot be read, or state and metadata differ in shape.")
		}
		return nil
	})
	return out, err
}
