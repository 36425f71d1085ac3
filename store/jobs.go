package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
)

var _ jobs.Store = (*DB)(nil)

const (
	jobColumns     = `tenant, id, status, active, spec, progress, created_at, updated_at, version, mac, waiting, queued, in_progress, succeeded, failed, rejected, timed_out, canceled, removed`
	jobSelect      = `SELECT ` + jobColumns + ` FROM jobs `
	attemptColumns = `tenant, job, thing, number, name, latest, status, rank, details, forced, failures, timeouts, queued_at, started_at, updated_at, version, until, step_until, due, mac`
	attemptSelect  = `SELECT ` + attemptColumns + ` FROM job_executions `
)

func decimals(n ...int64) (out [][]byte) {
	for _, v := range n {
		out = append(out, strconv.AppendInt(nil, v, 10))
	}
	return out
}

// jobRow is a job in its columns.
type jobRow struct {
	tenant, id, status          string
	active                      int
	spec, progress, mac         []byte
	created, updated, versionNo int64
}

// fields is what the MAC covers: all but the counts, which fsck counts again.
func (r *jobRow) fields() [][]byte {
	return append([][]byte{[]byte(r.tenant), []byte(r.id), []byte(r.status), r.spec, r.progress}, decimals(int64(r.active), r.created, r.updated, r.versionNo)...)
}

func (db *DB) jobRow(j *jobs.Job) (r jobRow, err error) {
	r = jobRow{tenant: j.Tenant, id: j.ID, status: string(j.Status), active: flag(j.Active), created: millis(j.CreatedAt), updated: millis(j.UpdatedAt), versionNo: j.Version}
	if r.spec, err = json.Marshal(j.Spec); err != nil {
		return r, err
	}
	if r.progress, err = json.Marshal(j.Progress); err != nil {
		return r, err
	}
	r.mac = db.cfg.Seal.MAC("jobs", r.fields()...)
	return r, nil
}

// scanJob reads a job; of one that was tampered with it gives tenant and name.
func (db *DB) scanJob(row row) (j jobs.Job, err error) {
	var r jobRow
	n := &j.Counts
	if err := row.Scan(&r.tenant, &r.id, &r.status, &r.active, &r.spec, &r.progress, &r.created, &r.updated, &r.versionNo, &r.mac,
		&n.Waiting, &n.Queued, &n.InProgress, &n.Succeeded, &n.Failed, &n.Rejected, &n.TimedOut, &n.Canceled, &n.Removed); err != nil {
		return j, err
	}
	j.Tenant, j.ID, j.Status, j.Active, j.Version = r.tenant, r.id, jobs.JobStatus(r.status), r.active == 1, r.versionNo
	j.CreatedAt, j.UpdatedAt = timeOf(r.created), timeOf(r.updated)
	err = db.cfg.Seal.Verify(r.mac, "jobs", r.fields()...)
	if err == nil {
		err = json.Unmarshal(r.spec, &j.Spec)
	}
	if err == nil {
		err = json.Unmarshal(r.progress, &j.Progress)
	}
	if err != nil {
		return j, ErrRowTampered.Wrap(err, "Table jobs, row %s/%s.", r.tenant, r.id)
	}
	return j, nil
}

// AddJob implements [jobs.Store].
func (db *DB) AddJob(ctx context.Context, j jobs.Job) error {
	r, err := db.jobRow(&j)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `INSERT INTO jobs (tenant, id, status, active, spec, progress, created_at, updated_at, version, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant, id) DO NOTHING`,
			r.tenant, r.id, r.status, r.active, r.spec, r.progress, r.created, r.updated, r.versionNo, r.mac)
		if err == nil && n != 1 {
			err = jobs.ErrJobExists.New("")
		}
		return err
	})
}

// PutJob implements [jobs.Store].
func (db *DB) PutJob(ctx context.Context, j jobs.Job, was int64) error {
	r, err := db.jobRow(&j)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE jobs SET status = $1, active = $2, spec = $3, progress = $4, updated_at = $5, version = $6, mac = $7 WHERE tenant = $8 AND id = $9 AND version = $10`,
			r.status, r.active, r.spec, r.progress, r.updated, r.versionNo, r.mac, r.tenant, r.id, was)
		if err == nil && n != 1 {
			err = jobs.ErrJobChanged.New("")
		}
		return err
	})
}

// CountJob implements [jobs.Store].
func (db *DB) CountJob(ctx context.Context, s access.Scope, id string, by jobs.Counts) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE jobs SET waiting = waiting + $1, queued = queued + $2, in_progress = in_progress + $3, succeeded = succeeded + $4, failed = failed + $5,
			rejected = rejected + $6, timed_out = timed_out + $7, canceled = canceled + $8, removed = removed + $9 WHERE tenant = $10 AND id = $11`,
			by.Waiting, by.Queued, by.InProgress, by.Succeeded, by.Failed, by.Rejected, by.TimedOut, by.Canceled, by.Removed, s.Tenant, id)
		if err == nil && n != 1 {
			err = jobs.ErrJobUnknown.New("")
		}
		return err
	})
}

// DropJob implements [jobs.Store].
func (db *DB) DropJob(ctx context.Context, s access.Scope, id string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `DELETE FROM jobs WHERE tenant = $1 AND id = $2`, s.Tenant, id)
		return err
	})
}

// Job implements [jobs.Store].
func (db *DB) Job(ctx context.Context, s access.Scope, id string) (jobs.Job, error) {
	j, err := db.scanJob(db.queryRow(ctx, jobSelect+`WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return j, jobs.ErrJobUnknown.New("")
	}
	return j, err
}

func (db *DB) jobs(ctx context.Context, query string, args ...any) (out []jobs.Job, err error) {
	rows, err := db.query(ctx, query, args...)
	err = each(rows, err, func(r row) error {
		j, err := db.scanJob(r)
		out = append(out, j)
		return err
	})
	return out, err
}

// Jobs implements [jobs.Store].
func (db *DB) Jobs(ctx context.Context, s access.Scope, status jobs.JobStatus, after string, limit int) ([]jobs.Job, error) {
	if status == "" {
		return db.jobs(ctx, jobSelect+`WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3`, s.Tenant, after, limit)
	}
	return db.jobs(ctx, jobSelect+`WHERE tenant = $1 AND id > $2 AND status = $3 ORDER BY id LIMIT $4`, s.Tenant, after, string(status), limit)
}

// ActiveJobs implements [jobs.Store].
func (db *DB) ActiveJobs(ctx context.Context, tenant, id string, limit int) ([]jobs.Job, error) {
	return db.jobs(ctx, jobSelect+`WHERE active = 1 AND (tenant, id) > ($1, $2) ORDER BY tenant, id LIMIT $3`, tenant, id, limit)
}

// attemptRow is an execution in its columns.
type attemptRow struct {
	e                                 jobs.Execution
	thing, details                    string
	latest, forced                    int
	queued, started, updated          int64
	until, step, due, failed, expired int64
	rank                              int64
	mac                               []byte
}

func (r *attemptRow) fields() [][]byte {
	return append([][]byte{[]byte(r.e.Tenant), []byte(r.e.Job), []byte(r.thing), []byte(r.e.Thing), []byte(r.e.Status), []byte(r.details)},
		decimals(r.e.Number, int64(r.latest), r.rank, int64(r.forced), r.failed, r.expired, r.queued, r.started, r.updated, r.e.Version, r.until, r.step, r.due)...)
}

func (db *DB) attemptRow(e *jobs.Execution) (r attemptRow, err error) {
	r = attemptRow{e: *e, thing: e.Thing.Fold(), latest: flag(e.Latest), forced: flag(e.Forced), queued: millis(e.QueuedAt), started: millis(e.StartedAt), updated: millis(e.UpdatedAt),
		until: millis(e.Until), step: millis(e.StepUntil), due: millis(e.Due()), failed: int64(e.Failures), expired: int64(e.Timeouts), rank: int64(e.Status.Rank())}
	details := e.Details
	if details == nil {
		details = map[string]string{}
	}
	if r.details, err = toText(details); err != nil {
		return r, err
	}
	r.mac = db.cfg.Seal.MAC("job_executions", r.fields()...)
	return r, nil
}

// scanAttempt reads an execution; of one that was tampered with it gives the key.
func (db *DB) scanAttempt(row row) (jobs.Execution, error) {
	var r attemptRow
	e := &r.e
	if err := row.Scan(&e.Tenant, &e.Job, &r.thing, &e.Number, (*string)(&e.Thing), &r.latest, (*string)(&e.Status), &r.rank, &r.details, &r.forced, &r.failed, &r.expired,
		&r.queued, &r.started, &r.updated, &e.Version, &r.until, &r.step, &r.due, &r.mac); err != nil {
		return *e, err
	}
	err := db.cfg.Seal.Verify(r.mac, "job_executions", r.fields()...)
	if err == nil && r.details != "{}" {
		err = json.Unmarshal([]byte(r.details), &e.Details)
	}
	if err != nil {
		e.Thing = fleet.ThingName(r.thing)
		return *e, ErrRowTampered.Wrap(err, "Table job_executions, row %s/%s/%s/%d.", e.Tenant, e.Job, r.thing, e.Number)
	}
	e.Latest, e.Forced, e.Failures, e.Timeouts = r.latest == 1, r.forced == 1, int(r.failed), int(r.expired)
	e.QueuedAt, e.StartedAt, e.UpdatedAt, e.Until, e.StepUntil = timeOf(r.queued), timeOf(r.started), timeOf(r.updated), timeOf(r.until), timeOf(r.step)
	return *e, nil
}

// AddExecution implements [jobs.Store].
func (db *DB) AddExecution(ctx context.Context, e jobs.Execution) error {
	r, err := db.attemptRow(&e)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `INSERT INTO job_executions (`+attemptColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
			ON CONFLICT (tenant, job, thing, number) DO NOTHING`,
			e.Tenant, e.Job, r.thing, e.Number, string(e.Thing), r.latest, string(e.Status), r.rank, r.details, r.forced, r.failed, r.expired, r.queued, r.started, r.updated, e.Version, r.until, r.step, r.due, r.mac)
		if err == nil && n != 1 {
			err = jobs.ErrChanged.New("")
		}
		return err
	})
}

// PutExecution implements [jobs.Store].
func (db *DB) PutExecution(ctx context.Context, e jobs.Execution, was int64) error {
	r, err := db.attemptRow(&e)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE job_executions SET latest = $1, status = $2, rank = $3, details = $4, forced = $5, queued_at = $6, started_at = $7, updated_at = $8, version = $9, until = $10, step_until = $11, due = $12, mac = $13
			WHERE tenant = $14 AND job = $15 AND thing = $16 AND number = $17 AND version = $18`,
			r.latest, string(e.Status), r.rank, r.details, r.forced, r.queued, r.started, r.updated, e.Version, r.until, r.step, r.due, r.mac, e.Tenant, e.Job, r.thing, e.Number, was)
		if err == nil && n != 1 {
			err = jobs.ErrChanged.New("")
		}
		return err
	})
}

// Execution implements [jobs.Store].
func (db *DB) Execution(ctx context.Context, s access.Scope, job string, thing fleet.ThingName, number int64) (e jobs.Execution, err error) {
	if number > 0 {
		e, err = db.scanAttempt(db.queryRow(ctx, attemptSelect+`WHERE tenant = $1 AND job = $2 AND thing = $3 AND number = $4`, s.Tenant, job, thing.Fold(), number))
	} else {
		e, err = db.scanAttempt(db.queryRow(ctx, attemptSelect+`WHERE tenant = $1 AND job = $2 AND thing = $3 ORDER BY number DESC LIMIT 1`, s.Tenant, job, thing.Fold()))
	}
	if errors.Is(err, sql.ErrNoRows) {
		return jobs.Execution{}, jobs.ErrExecution.New("")
	}
	return e, err
}

func (db *DB) attempts(ctx context.Context, query string, args ...any) (out []jobs.Execution, err error) {
	rows, err := db.query(ctx, query, args...)
	err = each(rows, err, func(r row) error {
		e, err := db.scanAttempt(r)
		out = append(out, e)
		return err
	})
	return out, err
}

const pendingExecutions = attemptSelect + `WHERE tenant = $1 AND thing = $2 AND rank < 2 ORDER BY rank, queued_at, job LIMIT `

// PendingExecutions implements [jobs.Store]: with limit 1 it is one step down the
// index job_executions_pending. The limit, of which there are a few, is part of
// the text: SQLite plans a statement anew for each value of a bound limit, which
// takes ten times as long as the look-up.
func (db *DB) PendingExecutions(ctx context.Context, s access.Scope, thing fleet.ThingName, limit int) ([]jobs.Execution, error) {
	return db.attempts(ctx, pendingExecutions+strconv.Itoa(limit), s.Tenant, thing.Fold())
}

// ExecutionsOfJob implements [jobs.Store].
func (db *DB) ExecutionsOfJob(ctx context.Context, s access.Scope, job string, rank int, after fleet.ThingName, limit int) ([]jobs.Execution, error) {
	if rank < 0 {
		return db.attempts(ctx, attemptSelect+`WHERE tenant = $1 AND job = $2 AND thing > $3 AND latest = 1 ORDER BY thing LIMIT $4`, s.Tenant, job, after.Fold(), limit)
	}
	return db.attempts(ctx, attemptSelect+`WHERE tenant = $1 AND job = $2 AND rank = $3 AND thing > $4 AND latest = 1 ORDER BY thing LIMIT $5`, s.Tenant, job, rank, after.Fold(), limit)
}

// ExecutionsOfThing implements [jobs.Store].
func (db *DB) ExecutionsOfThing(ctx context.Context, s access.Scope, thing fleet.ThingName, afterJob string, afterNumber int64, limit int) ([]jobs.Execution, error) {
	return db.attempts(ctx, attemptSelect+`WHERE tenant = $1 AND thing = $2 AND (job, number) > ($3, $4) ORDER BY job, number LIMIT $5`, s.Tenant, thing.Fold(), afterJob, afterNumber, limit)
}

// DropExecutions implements [jobs.Store].
func (db *DB) DropExecutions(ctx context.Context, s access.Scope, job string, thing fleet.ThingName) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `DELETE FROM job_executions WHERE tenant = $1 AND job = $2 AND thing = $3`, s.Tenant, job, thing.Fold())
		return err
	})
}

// DropWaiting implements [jobs.Store].
func (db *DB) DropWaiting(ctx context.Context, s access.Scope, job string, limit int) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) (err error) {
		n, err = db.exec(ctx, `DELETE FROM job_executions WHERE tenant = $1 AND job = $2 AND rank = 2 AND latest = 1 AND thing IN
			(SELECT w.thing FROM job_executions w WHERE w.tenant = $1 AND w.job = $2 AND w.rank = 2 AND w.latest = 1 ORDER BY w.thing LIMIT $3)`, s.Tenant, job, limit)
		return err
	})
	return n, err
}

// DueExecutions implements [jobs.Store].
func (db *DB) DueExecutions(ctx context.Context, now time.Time, limit int) ([]jobs.Execution, error) {
	return db.attempts(ctx, attemptSelect+`WHERE due > 0 AND due <= $1 ORDER BY due LIMIT $2`, millis(now), limit)
}

// BrokenJobs implements [jobs.Store].
func (db *DB) BrokenJobs(ctx context.Context, report func(check, object, detail string)) error {
	tenant, id := "", ""
	for {
		n := 0
		rows, err := db.query(ctx, jobSelect+`WHERE (tenant, id) > ($1, $2) ORDER BY tenant, id LIMIT $3`, tenant, id, 100)
		err = each(rows, err, func(r row) error {
			j, err := db.scanJob(r)
			if tenant, id = j.Tenant, j.ID; errors.Is(err, ErrRowTampered) {
				report("job-tampered", "jobs "+tenant+"/"+id, "The row is not as it was written.")
				err = nil
			}
			n++
			return err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	if err := db.brokenCounts(ctx, report); err != nil {
		return err
	}
	return db.brokenAttempts(ctx, report)
}

// brokenCounts compares the counts of each job with its executions.
func (db *DB) brokenCounts(ctx context.Context, report func(check, object, detail string)) error {
	rows, err := db.query(ctx, `SELECT j.tenant, j.id FROM jobs j LEFT JOIN (
			SELECT tenant, job, SUM(CASE WHEN status = 'WAITING' THEN 1 ELSE 0 END) AS waiting, SUM(CASE WHEN status = 'QUEUED' THEN 1 ELSE 0 END) AS queued,
				SUM(CASE WHEN status = 'IN_PROGRESS' THEN 1 ELSE 0 END) AS in_progress, SUM(CASE WHEN status = 'SUCCEEDED' THEN 1 ELSE 0 END) AS succeeded,
				SUM(CASE WHEN status = 'FAILED' THEN 1 ELSE 0 END) AS failed, SUM(CASE WHEN status = 'REJECTED' THEN 1 ELSE 0 END) AS rejected,
				SUM(CASE WHEN status = 'TIMED_OUT' THEN 1 ELSE 0 END) AS timed_out, SUM(CASE WHEN status = 'CANCELED' THEN 1 ELSE 0 END) AS canceled,
				SUM(CASE WHEN status = 'REMOVED' THEN 1 ELSE 0 END) AS removed
			FROM job_executions WHERE latest = 1 GROUP BY tenant, job) n ON n.tenant = j.tenant AND n.job = j.id
		WHERE j.waiting <> COALESCE(n.waiting, 0) OR j.queued <> COALESCE(n.queued, 0) OR j.in_progress <> COALESCE(n.in_progress, 0) OR j.succeeded <> COALESCE(n.succeeded, 0)
			OR j.failed <> COALESCE(n.failed, 0) OR j.rejected <> COALESCE(n.rejected, 0) OR j.timed_out <> COALESCE(n.timed_out, 0) OR j.canceled <> COALESCE(n.canceled, 0) OR j.removed <> COALESCE(n.removed, 0)`)
	return each(rows, err, func(r row) error {
		var tenant, id string
		err := r.Scan(&tenant, &id)
		report("job-counts", "jobs "+tenant+"/"+id, "Its counts are not those of its executions: one was added, removed or changed.")
		return err
	})
}

func (db *DB) brokenAttempts(ctx context.Context, report func(check, object, detail string)) error {
	for _, q := range []struct{ check, detail, query string }{
		{"job-missing", "Its job does not exist.", `SELECT DISTINCT e.tenant, e.job, e.thing FROM job_executions e LEFT JOIN jobs j ON j.tenant = e.tenant AND j.id = e.job WHERE j.id IS NULL`},
		{"job-execution-attempts", "Its attempts have a gap, or not exactly one of them is the latest.", `SELECT tenant, job, thing FROM job_executions GROUP BY tenant, job, thing
			HAVING MIN(number) <> 1 OR MAX(number) <> COUNT(*) OR SUM(latest) <> 1 OR MAX(CASE WHEN latest = 1 THEN number ELSE 0 END) <> MAX(number)`},
	} {
		rows, err := db.query(ctx, q.query)
		err = each(rows, err, func(r row) error {
			var tenant, job, thing string
			err := r.Scan(&tenant, &job, &thing)
			report(q.check, "job_executions "+tenant+"/"+job+"/"+thing, q.detail)
			return err
		})
		if err != nil {
			return err
		}
	}
	tenant, job, thing, number := "", "", "", int64(0)
	for {
		n := 0
		rows, err := db.query(ctx, attemptSelect+`WHERE (tenant, job, thing, number) > ($1, $2, $3, $4) ORDER BY tenant, job, thing, number LIMIT $5`, tenant, job, thing, number, chunk)
		err = each(rows, err, func(r row) error {
			e, err := db.scanAttempt(r)
			tenant, job, thing, number = e.Tenant, e.Job, e.Thing.Fold(), e.Number
			if errors.Is(err, ErrRowTampered) {
				report("job-execution-tampered", "job_executions "+tenant+"/"+job+"/"+thing+"/"+strconv.FormatInt(number, 10), "The row is not as it was written.")
				err = nil
			}
			n++
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}
