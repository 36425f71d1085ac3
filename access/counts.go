package access

import "time"

// Counts is a tenant in figures, for people.
type Counts struct {
	Certificates int64 // issued and in the log
	Revoked      int64 // revoked or held now
	Things       int64
	Stations     int64 // active
	LogSize      int64 // of the whole log
}

// Block is why an identity gets no certificate any more (S16).
type Block struct {
	At   time.Time
	By   string
	Note string
}
