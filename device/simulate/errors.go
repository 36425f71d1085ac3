package simulate

import "hallmark/internal/fault"

// The faults of the simulator.
var (
	ErrDevices = fault.Define(fault.Invalid, "simulate-devices", "There are no devices to simulate.", "Name a directory of devices that booted once, or a PEM bundle with keys and certificates.")
	ErrBundle  = fault.Define(fault.Invalid, "simulate-bundle", "The bundle of devices cannot be read.", "Write for each device its certificate, its chain and its key, in PEM.")
	ErrConfig  = fault.Define(fault.Invalid, "simulate-config", "The simulation is not described completely.", "Name the endpoint, the roots and the devices; rates and sizes are not negative.")
	ErrFiles   = fault.Define(fault.Exhausted, "simulate-open-files", "This process may not open a connection for each device.", "Raise the limit (ulimit -n) or simulate fewer devices.")
)
