package station

import (
	"strings"

	"hallmark/station/spool"
)

// Abandoned is the code of a unit's failed record in the journal if somebody gave
// the unit up.
const Abandoned = "abandoned"

// Abandon ends a unit that an earlier run left and that nobody will finish, such
// as a scrapped board: a record in the journal, with who said so and why, keeps
// it. order may be empty if the unit is open in one only; unit is its serial, or
// the job of one that has none yet. The service is told nothing: what it reserved
// and did not sign becomes void by itself (S8), and a certificate stays good until
// it is revoked. The unit is returned as it stood before; [ErrNotOpen],
// [ErrVerified].
func Abandon(journal *spool.Spool, order, unit, operator, note string) (spool.Unit, error) {
	var found []spool.Unit
	var orders []string
	for _, u := range journal.Unfinished() {
		if (order == "" || u.Order == order) && (u.Unit != "" && strings.EqualFold(u.Unit, unit) || u.Job == unit) {
			found, orders = append(found, u), append(orders, u.Order)
		}
	}
	switch {
	case len(operator) > maxOperator:
		return spool.Unit{}, ErrConfig.New("The operator's name is longer than %d octets.", maxOperator)
	case len(note) > maxNote:
		return spool.Unit{}, ErrConfig.New("The note is longer than %d octets.", maxNote)
	case len(found) == 0:
		return spool.Unit{}, ErrNotOpen.New("%q.", unit)
	case len(found) > 1:
		return spool.Unit{}, ErrConfig.New("The unit %s is open in the orders %s; name one.", found[0].Unit, strings.Join(orders, ", "))
	case found[0].State == spool.Verified:
		return spool.Unit{}, ErrVerified.New("%s.", found[0].Unit)
	}
	u := found[0]
	return u, journal.Append(spool.Record{Job: u.Job, State: spool.Failed, Nest: u.Nest, Operator: operator, Code: Abandoned, Detail: note})
}
