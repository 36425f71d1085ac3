// Package jobs tells devices to do something and keeps account of how it went:
// a job is a document for many things, an execution is one thing's attempt at it.
//
// Promises:
//   - An execution moves as its state machine says (execution.go); each change
//     raises its version by one, and a device that names an old version changes
//     nothing.
//   - A thing's next execution is the same for everybody who asks at the same
//     time, and is started once.
//   - Devices are started at the job's rate at most, and not outside its times.
//   - A device is told when its list of pending executions changes, and when the
//     first of them changes, and at no other time.
//   - What the device reported in statusDetails stays and comes back.
//   - The counters of a job are those of its executions.
//
// Answers to devices go to the asking connection alone; notifications and events
// go through the broker. The wire format is that of the jobs service of AWS IoT
// Core. Where that service says nothing, we decided: a finished execution is
// described like any other; a failed attempt that is retried does not count as a
// failure of the thing; executed means finished by the device or by a timer.
//
// Start reading at execution.go, then [Service.Update] and [Service.Step].
package jobs
