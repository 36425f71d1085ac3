package registry

import (
	"context"

	"hallmark/internal/fsck"
)

// Fsck proves from what is stored that things and certificates fit together:
// every row is as we wrote it; every principal has a thing and a certificate;
// every operational certificate belongs to a thing; a thing's live certificates
// are those of its holder, who has a birth certificate; every attribute has a
// thing; a registration names a template and hook that exist.
func (r *Registry) Fsck(ctx context.Context) (out []fsck.Finding, err error) {
	err = r.store.Broken(ctx, r.now(), func(check, object, detail string) {
		out = append(out, fsck.Finding{Check: check, Object: object, Detail: detail})
	})
	return out, err
}
