// Package declare is infrastructure as code: documents that say how templates,
// policies, groups and the like should be, the plan of what that changes, and
// the one transaction that does it.
//
// Promises:
//   - What was shown is what is done. A plan has a hash over what the documents
//     want and what is there; applying takes the documents and that hash, makes
//     the plan again inside the transaction, and does nothing if it differs.
//   - All or nothing: every change is made in one transaction, and a plan has
//     tried every change in one that is taken back.
//   - All mistakes of all files are told at once, each with file, line and code.
//   - Nothing is deleted. What no document names stays as it is.
//   - Whoever applies gets no right by it (S36). A change that is dangerous, or for
//     which the actor lacks the right, is not made: it becomes a stored request that
//     somebody else approves, who has the right of every change in it and saw what
//     they approve. What needs a second person in its own way, such as an order, is
//     drafted and no more.
//   - What is written by [Write] is read back as the same, and without secrets.
//
// The package knows documents and plans; what a kind is, is told by its [Kind].
//
// Start reading at plan.go, then document.go and request.go.
package declare
