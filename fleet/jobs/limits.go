package jobs

import "time"

const (
	MaxDocument      = 32 << 10 // bytes, before and after substitution of parameters
	MaxTargets       = 100
	MaxSubstitutions = 10   // of all kinds in a document
	MaxDetails       = 10   // pairs of statusDetails
	MaxDetailKey     = 128  // characters
	MaxDetailValue   = 1024 // characters
	MaxTimer         = 7 * 24 * 60
	MaxToken         = 64   // bytes of a clientToken
	MaxText          = 2028 // characters of a description or comment

	minPresign, maxPresign = 60, 3600 // seconds

	maxNotified = 10  // executions in a notification
	maxPending  = 200 // executions in an answer: some 30 KB
	maxPage     = 250 // rows of a list
	maxPayload  = 128 << 10

	tellers    = 32   // devices that are told something at the same time
	batch      = 100  // executions changed in one transaction: it holds up everybody else
	dropBatch  = 1000 // executions removed in one transaction that nobody was told of
	targetPage = 500  // things asked for at a time
	maxRounds  = 100  // transactions for one job in one step, so that every job gets its turn
	maxTries   = 16   // when other services change the same row at the same time

	stepEvery  = time.Second
	sweepEvery = time.Minute // how long a continuous job may not see a change of its groups that nobody told it
)
