package store

import "hallmark/internal/fault"

// The faults of the database.
var (
	ErrOpen        = fault.Define(fault.Unavailable, "store-unavailable", "The database cannot be opened or reached.", "Check the database setting, the directory's rights and free space.")
	ErrInUse       = fault.Define(fault.Conflict, "store-in-use", "Another process has this database open.", "Stop it first; one SQLite file serves one service.")
	ErrNewer       = fault.Define(fault.Conflict, "store-newer", "The database was written by a newer version of the program.", "Start that version, or restore a backup made before the upgrade.")
	ErrWrite       = fault.Define(fault.Unavailable, "store-write-failed", "The database did not take the change; nothing was done.", "Check free space and the database's health, then try again.")
	ErrUnknown     = fault.Define(fault.Unavailable, "store-outcome-unknown", "The connection to the database broke during a commit, so the outcome is not known.", "Send the same request again; it resolves itself and nothing is made twice.")
	ErrClockBehind = fault.Define(fault.Unavailable, "clock-behind", "The clock went back, so nothing is issued.", "Set the clock of this machine. If it is right and an earlier one was wrong, restart with hallmark serve --accept-clock.")
	ErrClockAhead  = fault.Define(fault.Unavailable, "clock-ahead", "The clock jumped forward, so nothing is issued and no list is published.", "Compare the clock with another one. If it is right, restart with hallmark serve --accept-clock.")
	ErrBusy        = fault.Define(fault.Unavailable, "store-busy", "Too many requests wait for the database.", "Try again after the stated time.")
	ErrClosed      = fault.Define(fault.Unavailable, "store-closed", "The service is shutting down.", "Try again on another node, or after the restart.")
	ErrRowTampered = fault.Define(fault.Internal, "store-row-tampered", "A database row was changed by something other than this program.", "Treat the database as compromised: run hallmark fsck and restore from a backup.")
	ErrNotFound    = fault.Define(fault.NotFound, "not-found", "There is no such record.", "Check the name; list what exists.")
	ErrExists      = fault.Define(fault.Conflict, "already-exists", "A record of that name exists already.", "Choose another name, or change the existing one.")
	ErrNotEmpty    = fault.Define(fault.Conflict, "store-not-empty", "There is a database already where the backup is to be restored.", "Name an empty place; nothing that exists is ever overwritten.")
	ErrLoad        = fault.Define(fault.Invalid, "store-load-failed", "The backup's rows could not be put into the database.", "Verify the backup (hallmark backup verify), check free space, and try again into an empty place.")
	ErrChanged     = fault.Define(fault.Conflict, "changed-meanwhile", "The record was changed by somebody else meanwhile.", "Read it again and repeat the change.")
)
