package access

import "slices"

// Role is what a principal is trusted with. It comes from the principal's
// record and from nowhere else.
type Role string

// The roles.
const (
	Operator        Role = "operator"         // looks at the line's work
	CMManager       Role = "cm-manager"       // runs a contract manufacturer's orders and stations
	SecurityOfficer Role = "security-officer" // approves, revokes, runs the authorities
	Auditor         Role = "auditor"          // reads everything, changes nothing
	FleetOperator   Role = "fleet-operator"   // runs devices after first boot
	Platform        Role = "platform"         // runs the service: principals, templates, hooks
)

var roles = []Role{Operator, CMManager, SecurityOfficer, Auditor, FleetOperator, Platform}

// Roles lists the roles.
func Roles() []Role { return slices.Clone(roles) }

// Valid tells whether r is a role.
func (r Role) Valid() bool { return slices.Contains(roles, r) }
