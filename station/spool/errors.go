package spool

import "hallmark/internal/fault"

// The faults of the journal.
var (
	ErrLocked  = fault.Define(fault.Conflict, "spool-locked", "Another process works with this station's journal.", "Stop the other hallmark station run first; two stations never share a directory.")
	ErrBroken  = fault.Define(fault.Internal, "spool-broken", "The station's journal is damaged before its end, so it is not used.", "Keep the directory as it is and ask the people who run the service; restoring an old copy or deleting it loses half-done units.")
	ErrVersion = fault.Define(fault.Conflict, "spool-version", "The station's journal was written by another version of this software.", "Use the version that wrote it, or a newer one.")
	ErrFull    = fault.Define(fault.Unavailable, "spool-full", "The disk of the station is full, so nothing more is asked for; nothing is lost.", "Free some space and start again; half-done units are finished then.")
	ErrWrite   = fault.Define(fault.Unavailable, "spool-write-failed", "The station's journal cannot be written, so nothing more is asked for; nothing is lost.", "Check the disk and start again; half-done units are finished then.")
	ErrRead    = fault.Define(fault.Unavailable, "spool-read-failed", "The station's journal cannot be opened.", "Check that the directory exists and belongs to the user of the station.")
	ErrLogKey  = fault.Define(fault.Conflict, "spool-log-key", "The service shows another key of its transparency log than before.", "Keep the file receipts.jsonl and ask the people who run the service; nothing is kept under the new key.")
	ErrRecord  = fault.Define(fault.Invalid, "spool-record-invalid", "A journal record is too large or incomplete.", "Report it; the unit's certificate or chain is larger than any honest one.")
)
