package provisioner

import "hallmark/internal/fault"

// The faults of orders, units and stations.
var (
	ErrOrderInvalid   = fault.Define(fault.Invalid, "order-invalid", "The order is not complete or contradicts itself.", "Correct the named field.")
	ErrOrderUnknown   = fault.Define(fault.NotFound, "order-unknown", "There is no order of that id.", "List them with hallmark order list.")
	ErrOrderState     = fault.Define(fault.Conflict, "order-state", "The order's state does not allow this.", "An order goes draft, approved, open, closed; look at it with hallmark order show.")
	ErrOrderSignature = fault.Define(fault.Forbidden, "order-signature", "The order has no valid signature of an approver whose key is pinned.", "Approve it with hallmark order approve and a key listed under approvers in the configuration.")
	ErrOrderWindow    = fault.Define(fault.Conflict, "order-window", "The order is outside its time window.", "Check the window, and the clock of the station and the service.")
	ErrOrderOver      = fault.Define(fault.Invalid, "order-over", "The order's window is over before the order begins.", "Give a later end; a date alone means the end of that day in UTC.")
	ErrOrderStation   = fault.Define(fault.Forbidden, "order-station", "The order is not worked here.", "Use a station that the order lists. Stations make units whose key origin is claimed or station-made; attested keys enrol over ACME.")
	ErrUnitInvalid    = fault.Define(fault.Invalid, "unit-invalid", "The unit's serial is not one of this order.", "Check the scanned label against the order's serial rule.")
	ErrUnitNamed      = fault.Define(fault.Invalid, "unit-unnamed", "The request names no unit.", "Name the unit in the header Hallmark-Unit, or use an order that takes the common name.")
	ErrUnitMismatch   = fault.Define(fault.Invalid, "unit-mismatch", "The CSR's common name and the named unit differ.", "Check the label: the device and the scan disagree.")
	ErrUnitUnknown    = fault.Define(fault.NotFound, "unit-unknown", "There is no certificate of that unit and serial number at this station.", "Ask for the certificate first.")
	ErrRequestText    = fault.Define(fault.Invalid, "unit-request-invalid", "The operator or the tool that the request names is not usable.", "Use at most 64 printable characters.")
	ErrUnitsNone      = fault.Define(fault.Exhausted, "units-none-left", "The order's serial rule has no free serial left.", "Ask for a new order.")
	ErrCommitProof    = fault.Define(fault.Invalid, "commit-unproven", "The device's signature does not prove that it holds the certified key.", "Repeat the challenge on the device; if it fails again, scrap the unit, or replace the part and scan the unit again.")
	ErrStationCode    = fault.Define(fault.Unauthenticated, "station-code-refused", "The enrolment code is wrong, used, expired or for another station.", "Ask for a new code with hallmark station-code create.")
	ErrStationExists  = fault.Define(fault.Conflict, "station-exists", "A station of that id is enrolled already.", "A station renews its own certificate. If its computer is to be replaced, revoke the station first; else choose another id.")
	ErrStationKey     = fault.Define(fault.Conflict, "station-key-used", "The station's key had a certificate before.", "Enrol in a new directory, with a new key.")
	ErrStationUnknown = fault.Define(fault.NotFound, "station-unknown", "There is no station of that id.", "List them with hallmark stations list.")
	ErrStationName    = fault.Define(fault.Invalid, "station-invalid", "The station's or site's name is not usable.", "Use 1 to 64 characters of A-Z a-z 0-9 . _ : -")
	ErrNotStation     = fault.Define(fault.Forbidden, "door-role", "This certificate has no role at this door.", "Stations use the factory listener, devices the device listener.")
)
