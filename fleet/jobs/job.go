package jobs

import (
	"strings"
	"time"
	"unicode/utf8"

	"hallmark/access"
	"hallmark/fleet/rollout"
)

// JobStatus is the state of a job.
type JobStatus string

// The states.
const (
	JobScheduled  JobStatus = "SCHEDULED"
	JobInProgress JobStatus = "IN_PROGRESS"
	JobCompleted  JobStatus = "COMPLETED"
	JobCanceled   JobStatus = "CANCELED"
	JobDeleting   JobStatus = "DELETION_IN_PROGRESS"
)

// Selection says whether things that join a group later get the job too.
type Selection string

// The selections; Snapshot is the default.
const (
	Snapshot   Selection = "SNAPSHOT"
	Continuous Selection = "CONTINUOUS"
)

// Spec is what somebody wants to be done. Its JSON has the names of the wire,
// but for times, which are RFC 3339.
type Spec struct {
	// Targets are "thing/NAME" or "thinggroup/NAME", or ARNs that end so. A bare
	// name becomes one of both when the job is made: the group's if there is one.
	Targets    []string          `json:"targets"`
	Selection  Selection         `json:"targetSelection,omitempty"`
	Document   string            `json:"document"`
	Parameters map[string]string `json:"documentParameters,omitempty"`
	Presign    Presign           `json:"presignedUrlConfig,omitzero"`
	Rollout    rollout.Rate      `json:"jobExecutionsRolloutConfig,omitzero"`
	Abort      rollout.Abort     `json:"abortConfig,omitzero"`
	Retry      rollout.Retry     `json:"jobExecutionsRetryConfig,omitzero"`
	Timeout    Timeout           `json:"timeoutConfig,omitzero"`
	Schedule   rollout.Schedule  `json:"schedulingConfig,omitzero"`

	Description string            `json:"description,omitempty"`
	Namespace   string            `json:"namespaceId,omitempty"`
	Packages    []string          `json:"destinationPackageVersions,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// Presign says how long presigned URLs in the document hold.
type Presign struct {
	RoleARN      string `json:"roleArn,omitempty"` // kept and shown, not used
	ExpiresInSec int    `json:"expiresInSec,omitempty"`
}

// Timeout is the in-progress timer.
type Timeout struct {
	InProgressMinutes int `json:"inProgressTimeoutInMinutes,omitempty"` // 0: none
}

// Progress is how far a job came.
type Progress struct {
	Cursor      string         `json:"cursor,omitempty"`     // folded name of the last thing that was looked at; things are looked at in that order
	Enumerated  bool           `json:"enumerated,omitempty"` // every target was looked at once
	SweptAt     time.Time      `json:"sweptAt,omitzero"`     // continuous: when the last look began
	Window      rollout.Window `json:"window,omitzero"`
	Stopped     bool           `json:"stopped,omitempty"` // the schedule ended the roll-out
	Force       bool           `json:"force,omitempty"`   // cancelled by force
	ReasonCode  string         `json:"reasonCode,omitempty"`
	Comment     string         `json:"comment,omitempty"`
	CompletedAt time.Time      `json:"completedAt,omitzero"`
}

// Job is a job.
type Job struct {
	Tenant string
	ID     string
	Status JobStatus
	Active bool // the loop has something to do for it
	Spec
	Progress
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64 // rises with every change but that of the counts
	Counts    Counts
}

func (j *Job) scope() access.Scope { return access.Scope{Tenant: j.Tenant} }

// ended tells whether no execution may begin any more.
func (j *Job) ended() bool { return j.Status == JobCanceled || j.Status == JobDeleting }

func (j *Job) timeout() time.Duration {
	return time.Duration(j.Timeout.InProgressMinutes) * time.Minute
}

// ParseID checks the name of a job.
func ParseID(s string) error {
	ok := s != "" && len(s) <= 64
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if !ok {
		return ErrJobInvalid.New("The job's name needs 1 to 64 of a-z A-Z 0-9 _ -")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}

// Check tells whether the job is possible; signer says whether presigned URLs
// can be made.
func (s *Spec) Check(signer bool) error {
	if len(s.Targets) == 0 || len(s.Targets) > MaxTargets {
		return ErrJobInvalid.New("A job has 1 to %d targets.", MaxTargets)
	}
	for _, t := range s.Targets {
		if _, err := parseTarget(t); err != nil {
			return err
		}
	}
	if s.Selection != Snapshot && s.Selection != Continuous {
		return ErrJobInvalid.New("The target selection is SNAPSHOT or CONTINUOUS.")
	}
	if m := s.Timeout.InProgressMinutes; m < 0 || m > MaxTimer {
		return ErrJobInvalid.New("The timeout has 1 to %d minutes.", MaxTimer)
	}
	if p := s.Presign.ExpiresInSec; p != 0 && (p < minPresign || p > maxPresign) {
		return ErrJobInvalid.New("Presigned URLs hold %d to %d seconds.", minPresign, maxPresign)
	}
	if utf8.RuneCountInString(s.Description) > MaxText {
		return ErrJobInvalid.New("The description has more than %d characters.", MaxText)
	}
	for _, err := range []error{s.Rollout.Check(), checkAbort(s.Abort), s.Retry.Check(s.Timeout.InProgressMinutes > 0), s.Schedule.Check()} {
		if err != nil {
			return err
		}
	}
	urls, err := checkDocument(s.Document, s.Parameters)
	if err == nil && urls > 0 && !signer {
		err = ErrArtifacts.New("")
	}
	return err
}
