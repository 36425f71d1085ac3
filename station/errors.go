package station

import "hallmark/internal/fault"

// The faults of a station.
var (
	ErrConfig      = fault.Define(fault.Invalid, "station-config-invalid", "The station's settings are not usable.", "Correct the named setting.")
	ErrSerial      = fault.Define(fault.Invalid, "station-serial-invalid", "What was scanned cannot be a unit's serial.", "Scan the label again; a serial is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
	ErrTwice       = fault.Define(fault.Conflict, "station-unit-twice", "This serial is in another nest at this moment.", "Two units carry the same label, or one was scanned twice; sort them out before going on.")
	ErrOther       = fault.Define(fault.Conflict, "station-unit-other", "A unit of this serial was finished here before, and it is not the one in the nest.", "Two units carry the same label, or the board was changed: an installed unit gets no other key. Give the board a label of its own, or scrap it.")
	ErrCSR         = fault.Define(fault.Conflict, "station-csr-wrong", "The device's certification request is not usable.", "Check the device's firmware or the adapter; nothing was asked of the service.")
	ErrCertificate = fault.Define(fault.Forbidden, "station-certificate-wrong", "The certificate is not one that this unit can carry.", "Do not ship the unit; report it to the people who run the service.")
	ErrReadBack    = fault.Define(fault.Conflict, "station-readback-differs", "The device does not hold the certificate that was written.", "Check the device's memory, then scan the unit again; the same certificate is written again.")
	ErrChallenge   = fault.Define(fault.Conflict, "station-challenge-wrong", "The device's signature is not by the key of its certificate.", "The label may be on another board; sort that out, then scan the unit again.")
	ErrUnits       = fault.Define(fault.Conflict, "station-units-failed", "Not every unit was installed and verified.", "Look at the lines of the units; pending ones are finished by starting again, failed ones by scanning them again.")
	ErrStopped     = fault.Define(fault.Conflict, "station-stopped", "The station stopped because something is wrong with more than one unit.", "Call for help at the line; when the reason is gone, start again.")
	ErrOrder       = fault.Define(fault.Conflict, "station-order-not-open", "The order is not open, so no new unit is begun.", "Ask for the order to be opened, or work on another one.")
	ErrClock       = fault.Define(fault.Conflict, "station-clock-wrong", "The station's clock does not agree with the service's, so no certificate can be checked.", "Set the station's clock and start again; units that were begun are finished then.")
	ErrNotOpen     = fault.Define(fault.NotFound, "station-unit-not-open", "The journal has no unfinished unit of that name.", "List the unfinished ones with hallmark station status.")
	ErrVerified    = fault.Define(fault.Conflict, "station-unit-verified", "The unit is installed and verified and only its commit is missing, so it cannot be given up.", "Start the station; the commit needs no device. If the unit is scrapped, have its certificate revoked then.")
	ErrNotEnrolled = fault.Define(fault.NotFound, "station-not-enrolled", "There is no enrolled station in this directory.", "Ask for an enrolment string and use hallmark station enrol.")
	ErrEnrolled    = fault.Define(fault.Conflict, "station-enrolled", "There is an enrolled station in this directory.", "Use it, or choose another directory for another station.")
	ErrIdentity    = fault.Define(fault.Invalid, "station-identity-broken", "The station's own certificate or key cannot be used.", "Correct what is named; a station whose key is lost enrols again with a new string.")
	ErrExpired     = fault.Define(fault.Forbidden, "station-expired", "The station's certificate has expired.", "Check the station's clock; if it is right, enrol again in a new directory with a new string.")
	ErrKeyNext     = fault.Define(fault.Invalid, "station-key-next", "There is no name for the station's next key.", "Name a new key with --key; keys are never overwritten.")
)
