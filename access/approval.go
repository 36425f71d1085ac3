package access

import "time"

// Approval is the agreement of a second person to one exact thing, as a value
// (S36). It exists only if [Approve] made it.
type Approval struct {
	action   Action
	subject  [32]byte
	creator  string
	approver string
	at       time.Time
}

// Approve lets by agree to what creator asked for. The subject is the hash of
// what is approved, so that it cannot be exchanged afterwards. A person never
// approves what the same person asked for, whatever the role.
func Approve(by Actor, action Action, subject [32]byte, creator string, now time.Time) (Approval, error) {
	if err := Require(by, action); err != nil {
		return Approval{}, err
	}
	if creator == "" || creator == by.Name {
		return Approval{}, ErrSelfApproval.New("%s asked for it.", by.Name)
	}
	return Approval{action: action, subject: subject, creator: creator, approver: by.Name, at: now}, nil
}

// Covers tells whether this approves that.
func (a Approval) Covers(action Action, subject [32]byte) bool {
	return a.approver != "" && a.action == action && a.subject == subject
}

// Approver is who agreed.
func (a Approval) Approver() string { return a.approver }

// At is when.
func (a Approval) At() time.Time { return a.at }
