package campaign

import (
	"context"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/internal/fsck"
)

// Campaign gives a campaign with its counts.
func (s *Service) Campaign(ctx context.Context, scope access.Scope, id string) (Campaign, error) {
	return s.store.Campaign(ctx, scope, id)
}

// Campaigns lists campaigns by name after one; state "" means all.
func (s *Service) Campaigns(ctx context.Context, scope access.Scope, state State, after string, limit int) ([]Campaign, error) {
	if limit < 1 || limit > MaxPage {
		return nil, ErrPage.New("")
	}
	return s.store.Campaigns(ctx, scope, state, after, limit)
}

// Members lists a campaign's devices by name after one; state "" means all.
func (s *Service) Members(ctx context.Context, scope access.Scope, id string, state MemberState, after fleet.ThingName, limit int) ([]Member, error) {
	if limit < 1 || limit > MaxPage {
		return nil, ErrPage.New("")
	}
	if _, err := s.store.Campaign(ctx, scope, id); err != nil {
		return nil, err
	}
	return s.store.CampaignMembers(ctx, scope, id, MemberQuery{State: state, After: after.Fold(), Limit: limit})
}

// Member gives a device in a campaign.
func (s *Service) Member(ctx context.Context, scope access.Scope, id string, thing fleet.ThingName) (Member, error) {
	return s.store.Member(ctx, scope, id, thing)
}

// Failures counts what went wrong in a campaign, and who was skipped, by code.
func (s *Service) Failures(ctx context.Context, scope access.Scope, id string) ([]Failure, error) {
	return s.store.Failures(ctx, scope, id)
}

// Timeline lists what became of a thing in all campaigns, oldest first, after a step;
// the zero Step is the beginning.
func (s *Service) Timeline(ctx context.Context, scope access.Scope, thing fleet.ThingName, after Step, limit int) ([]Step, error) {
	if limit < 1 || limit > MaxPage {
		return nil, ErrPage.New("")
	}
	return s.store.Steps(ctx, scope, thing, after, limit)
}

// Fsck proves from what is stored that campaigns fit together: every row is as we
// wrote it; every member has a campaign and all its steps, the last of which is its
// state; the counts are those of the members.
func (s *Service) Fsck(ctx context.Context) (out []fsck.Finding, err error) {
	err = s.store.BrokenCampaigns(ctx, func(check, object, detail string) {
		out = append(out, fsck.Finding{Check: check, Object: object, Detail: detail})
	})
	return out, err
}
