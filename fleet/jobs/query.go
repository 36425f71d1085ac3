package jobs

import (
	"context"

	"hallmark/access"
	"hallmark/fleet"
)

// Job gives a job.
func (s *Service) Job(ctx context.Context, tenant, id string) (Job, error) {
	return s.store.Job(ctx, access.Scope{Tenant: tenant}, id)
}

// Document is the job's document as people see it: with its parameters, without
// presigned URLs.
func (s *Service) Document(ctx context.Context, tenant, id string) (string, error) {
	j, err := s.Job(ctx, tenant, id)
	if err != nil {
		return "", err
	}
	return j.documentFor()
}

// Jobs lists jobs by name after one; status "" means all.
func (s *Service) Jobs(ctx context.Context, tenant string, status JobStatus, after string, limit int) ([]Job, error) {
	if limit < 1 || limit > maxPage {
		return nil, ErrRequestThings.New("")
	}
	return s.store.Jobs(ctx, access.Scope{Tenant: tenant}, status, after, limit)
}

// ExecutionsOfJob lists the latest attempts of a job in the order of the things'
// folded names, after a thing; status "" means all. Waiting ones are not listed.
func (s *Service) ExecutionsOfJob(ctx context.Context, tenant, job string, status Status, after fleet.ThingName, limit int) ([]Execution, error) {
	if limit < 1 || limit > maxPage {
		return nil, ErrRequestThings.New("")
	}
	if _, err := s.Job(ctx, tenant, job); err != nil {
		return nil, err
	}
	rank := -1
	if status != "" {
		rank = status.Rank()
	}
	return collect(limit, func(e Execution) bool { return e.Status != Waiting && (status == "" || e.Status == status) }, func(last *Execution) ([]Execution, error) {
		if last != nil {
			after = last.Thing
		}
		return s.store.ExecutionsOfJob(ctx, access.Scope{Tenant: tenant}, job, rank, after, maxPage)
	})
}

// ExecutionsOfThing lists the attempts of a thing by job and number; status ""
// means all.
func (s *Service) ExecutionsOfThing(ctx context.Context, tenant string, thing fleet.ThingName, status Status, afterJob string, afterNumber int64, limit int) ([]Execution, error) {
	if limit < 1 || limit > maxPage {
		return nil, ErrRequestThings.New("")
	}
	return collect(limit, func(e Execution) bool { return e.Status != Waiting && (status == "" || e.Status == status) }, func(last *Execution) ([]Execution, error) {
		if last != nil {
			afterJob, afterNumber = last.Job, last.Number
		}
		return s.store.ExecutionsOfThing(ctx, access.Scope{Tenant: tenant}, thing, afterJob, afterNumber, maxPage)
	})
}

// collect reads pages until enough rows are wanted ones.
func collect(limit int, want func(Execution) bool, read func(last *Execution) ([]Execution, error)) (out []Execution, err error) {
	var last *Execution
	for {
		page, err := read(last)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if want(e) {
				if out = append(out, e); len(out) == limit {
					return out, nil
				}
			}
		}
		if len(page) < maxPage {
			return out, nil
		}
		last = &page[len(page)-1]
	}
}
