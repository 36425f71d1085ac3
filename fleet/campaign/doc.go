// Package campaign is the engine of every change that many devices get in
// stages: certificate rotation, trust bundles, firmware. It knows who, when, how
// fast, and when to stop; what is changed is told by an [Action].
//
// Promises:
//   - No device is offered the same attempt twice, with several services on one
//     database and after a kill at any point.
//   - A stage begins only when the one before has ended, its watch time is over,
//     and no threshold was reached.
//   - A campaign over a threshold stops itself, and what no device has begun is
//     taken back: in a paused or stopped campaign nobody begins.
//   - A device that said "done" is not believed: the Action judges by what the
//     service sees. Only then comes the soak, and only then Finish.
//   - Nothing of a device is finished (what cannot be taken back) while the
//     device's newest report or its silence speaks against it.
//   - Over a configured size a second person approves, before anything is offered
//     (S36).
//   - Every step of every device is kept, with its reason.
//
// A member (a device in a campaign) goes this way:
//
//	waiting ─► offered ─► working ─► proving ─► soaking ─► done
//	   │          │ └─► asleep ─┘        (failed, rejected, timed-out, silent)
//	   ▼          ▼
//	skipped    waiting            roll back: returning ─► undoing ─► undone
//
// The engine works outside of transactions: it asks the Action, and then writes
// what follows, if the member is still what was read. So everything that an
// Action does must bear to be done again.
//
// Start reading at [Spec], [Action] and [Service.Step].
package campaign
