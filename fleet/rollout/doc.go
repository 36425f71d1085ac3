// Package rollout is the arithmetic of doing something to many devices: how
// fast, when, how often again, and when to stop. It is pure: every function
// takes what it needs, the time too, and changes nothing but its receiver.
//
// Promises:
//   - In no window of a minute are more devices started than the rate at its end.
//   - The rate never falls and never exceeds the maximum.
//   - What is decided depends on the arguments alone.
//
// A campaign keeps a [Window] with its own state and asks, in this order,
// [Schedule.Phase], [Abort.Decide], [Rate.PerMinute] and [Window.Allow].
//
// Start reading at [Rate].
package rollout
