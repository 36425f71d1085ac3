package declare

import "hallmark/internal/fault"

// The faults of documents and plans. Those above ErrRefused are about a place in a
// file and come inside it, with what the kinds themselves refuse.
var (
	ErrYAML      = fault.Define(fault.Invalid, "declare-yaml", "The file is not YAML that can be read.", "Correct the line named; tabs do not indent.")
	ErrForm      = fault.Define(fault.Invalid, "declare-form", "The document uses a part of YAML that is not taken here.", "Write plain mappings, lists and scalars: no anchors, aliases, merge keys or tags, and quote what is no plain number, true or false.")
	ErrTwice     = fault.Define(fault.Invalid, "declare-key-twice", "A mapping has a key twice.", "Keep one of them.")
	ErrField     = fault.Define(fault.Invalid, "declare-field", "The document has a field that is not known, or lacks one.", "A document has apiVersion, kind, metadata with a name, and spec; correct the field named.")
	ErrVersion   = fault.Define(fault.Invalid, "declare-version", "The document's apiVersion is not known.", "Write apiVersion: hallmark/v1")
	ErrKind      = fault.Define(fault.Invalid, "declare-kind", "There is no such kind of document.", "Use one of the kinds listed.")
	ErrDuplicate = fault.Define(fault.Invalid, "declare-document-twice", "Two documents are about the same object.", "Keep one of them.")
	ErrImmutable = fault.Define(fault.Conflict, "declare-immutable", "The object cannot be changed in this way.", "Give the new one another name, or change what the message names by its own command.")

	ErrRefused = fault.Define(fault.Invalid, "declare-refused", "The documents cannot be applied. Nothing was done.", "Correct each place named, and plan again.")
	ErrStale   = fault.Define(fault.Conflict, "declare-plan-stale", "What is there, the documents or your rights changed after the plan was made. Nothing was done.", "Plan again and look at the new difference.")
	ErrLimit   = fault.Define(fault.Invalid, "declare-limit", "There are too many documents, or one is nested too deeply.", "Apply a part at a time.")
	ErrEmpty   = fault.Define(fault.Invalid, "declare-empty", "The files hold no document.", "Write at least one, or export what is there.")

	ErrRequestUnknown = fault.Define(fault.NotFound, "approval-unknown", "There is no such approval request.", "List them with hallmark approval list.")
	ErrRequestDecided = fault.Define(fault.Conflict, "approval-decided", "The approval request is not open any more.", "Look at it with hallmark approval show ID; to ask anew, apply the files again.")
	ErrRequestMoved   = fault.Define(fault.Conflict, "approval-moved", "Somebody else decided or asked at the same moment. Nothing was done.", "Look at the request again.")
	ErrRequestLimit   = fault.Define(fault.Exhausted, "approval-limit", "Too many approval requests are open.", "Decide some of them first; hallmark approval list --state open shows them.")
	ErrRequestAsker   = fault.Define(fault.Conflict, "approval-asker-disabled", "The access of whoever asked for this was ended. Nothing was done.", "Reject the request; somebody with access applies the files again if they are still wanted.")
	ErrRequestNote    = fault.Define(fault.Invalid, "approval-note", "The note is longer than 1024 octets, or has control characters.", "Write it in one line.")

	ErrUnread = fault.Define(fault.Internal, "declare-export", "A document that was written is not read back as the same.", "Report the object's kind and name.")
)
