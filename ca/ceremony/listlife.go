package ceremony

import (
	"crypto/x509"
	"time"
)

// ListLife is how much life the list of a root has left. A root is asleep for a
// year: nobody notices that its list ends until verifiers that insist on one
// refuse every chain below it (A35).
type ListLife struct {
	Number     string    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Left       float64   `json:"left"`  // part of its life, 1 to 0; below 0 once it has lapsed
	Alarm      string    `json:"alarm"` // "", "50", "25", "10" (percent left at most) or "lapsed"
	Next       string    `json:"next"`  // what to do, "" while nothing is
}

// LifeOfList reads a list that the root signed and says how it stands.
func LifeOfList(list, root []byte, now time.Time) (ListLife, error) {
	r, err := parseRoot(root)
	if err != nil {
		return ListLife{}, err
	}
	l, err := parsePrevious(list, r)
	if err != nil {
		return ListLife{}, err
	}
	return lifeOf(l, now), nil
}

func lifeOf(l *x509.RevocationList, now time.Time) ListLife {
	life := ListLife{Number: l.Number.String(), ThisUpdate: l.ThisUpdate.UTC(), NextUpdate: l.NextUpdate.UTC()}
	whole := l.NextUpdate.Sub(l.ThisUpdate)
	if whole > 0 {
		life.Left = float64(l.NextUpdate.Sub(now)) / float64(whole)
	}
	switch {
	case life.Left <= 0:
		life.Alarm = "lapsed"
		life.Next = "Verifiers that insist on a list refuse every chain below this root now. Sign the next list at once."
	case life.Left <= 0.10:
		life.Alarm, life.Next = "10", "Sign the next list this week."
	case life.Left <= 0.25:
		life.Alarm, life.Next = "25", "Hold the ceremony of the next list."
	case life.Left <= 0.50:
		life.Alarm, life.Next = "50", "Set the date of the ceremony of the next list."
	}
	return life
}
