package rollout

import "hallmark/internal/fault"

// The faults of rules that cannot be followed.
var (
	ErrRate     = fault.Define(fault.Invalid, "rollout-rate-invalid", "The roll-out rate is not possible.", "Use 1 to 1000 a minute; a factor above 1 and up to 5 with one decimal; and one criterion.")
	ErrAbort    = fault.Define(fault.Invalid, "rollout-abort-invalid", "The abort criterion is not possible.", "Name FAILED, REJECTED, TIMED_OUT or ALL, the action CANCEL, a percentage above 0 and up to 100, and at least 1 device.")
	ErrRetry    = fault.Define(fault.Invalid, "rollout-retry-invalid", "The retry criteria are not possible.", "Name FAILED, TIMED_OUT or ALL and together at most 10 retries; retries of TIMED_OUT need a timeout.")
	ErrSchedule = fault.Define(fault.Invalid, "rollout-schedule-invalid", "The schedule is not possible.", "Give the start before the end, and an end behaviour only with an end.")
	ErrCron     = fault.Define(fault.Invalid, "rollout-cron-invalid", "The recurring time cannot be read.", "Use cron(minute hour day-of-month month day-of-week year), in UTC.")
)
