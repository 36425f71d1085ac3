package shadow

import (
	"context"
	"time"
)

// retainPage is how many shadows one transaction removes.
const retainPage = 500

// Retain removes shadows with their versions whose time is over (S43): those of
// names that are no registered thing's when nothing was said for the time orphans,
// and all that nobody updated for the time all. A time of 0 keeps them. It tells
// nobody; call it every hour or so.
func (s *Service) Retain(ctx context.Context, orphans, all time.Duration) (n int64, err error) {
	for _, kind := range []struct {
		keep       time.Duration
		registered bool
	}{{orphans, false}, {all, true}} {
		for kind.keep > 0 {
			gone, err := s.store.ForgetShadows(ctx, s.now().Add(-kind.keep), kind.registered, retainPage)
			n += gone
			if err != nil {
				return n, err
			}
			if gone < retainPage {
				break
			}
		}
	}
	return n, nil
}
