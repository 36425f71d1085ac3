package campaign

import "time"

const (
	maxID       = 48   // characters; the job's name has more
	MaxTargets  = 1000 // written out; a group has as many as it likes
	MaxStages   = 20
	MaxText     = 2028
	maxQuery    = 4096
	maxParams   = 64 << 10
	maxTime     = 366 * 24 * time.Hour // of a stage's watch, a soak and the like
	maxWords    = 512                  // of a member's detail
	MaxPage     = 250
	maxDryRun   = 1_000_000 // things that a dry run looks at
	maxExamples = 10_000    // things that a dry run names

	defaultTimeout = 24 * time.Hour

	batch     = 100 // members changed in one transaction: it holds up everybody else
	busyBatch = 8   // while the factory line works
	lookers   = 16  // members that are looked at at the same time
	maxRounds = 100 // for one campaign in one step, so that every one gets its turn

	stepEvery  = time.Second
	sweepEvery = 10 * time.Minute
	leaseTime  = 15 * time.Second

	lookSoon = 2 * time.Second  // at what may be any moment
	lookLate = 10 * time.Minute // at what takes its time

	remindSoon  = time.Minute // after the offer, or after it connected
	remindLate  = 30 * time.Minute
	remindRate  = 50 // reminders a second, of one service
	remindBurst = 100

	maxFailures = 6 // of a device in a continuous campaign, for one and the same change
	backSoon    = time.Hour
	backLate    = 7 * 24 * time.Hour
)
