package jobs

import (
	"context"

	"hallmark/internal/fsck"
)

// Fsck proves from what is stored that jobs and executions fit together: every
// row is as we wrote it; every execution has a job, a number from 1 without
// gaps, and one attempt is the latest; the counts of a job are those of its
// latest attempts, so that a missing execution is seen.
func (s *Service) Fsck(ctx context.Context) (out []fsck.Finding, err error) {
	err = s.store.BrokenJobs(ctx, func(check, object, detail string) {
		out = append(out, fsck.Finding{Check: check, Object: object, Detail: detail})
	})
	return out, err
}
