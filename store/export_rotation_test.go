package store

// For the tests of the plan.
var (
	ExpiringSQL  = expiringSQL
	UsesSQL      = usesSQL
	PresenceSQL  = presenceSQL
	ThingsOfSQL  = thingsOfSQL
	ExpiringArgs = expiringArgs
)
