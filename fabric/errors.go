package fabric

import "hallmark/internal/fault"

// The faults of the fabric.
var (
	ErrConfig      = fault.Define(fault.Invalid, "fabric-config-invalid", "The nodes of this service cannot be connected with these settings.", "Correct the named key under fabric.")
	ErrUnavailable = fault.Define(fault.Unavailable, "fabric-unavailable", "The NATS server cannot be reached.", "Check that it runs, its address, and the certificate or credentials that are configured for it.")
	ErrNobody      = fault.Define(fault.Unavailable, "fabric-no-node", "The other node is not connected to the NATS server.", "Wait until it is back, or until its devices were taken over.")
	ErrSilent      = fault.Define(fault.Unavailable, "fabric-no-answer", "The other node did not answer in time.", "Look at its load and at the network between the nodes.")
	ErrForged      = fault.Define(fault.Forbidden, "fabric-frame-refused", "A frame was not sealed by a node of this service.", "Check who else uses the NATS server, and that all nodes have the same seal key.")
)
