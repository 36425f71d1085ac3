// Package presence knows which devices are connected, and when the others were
// last heard of. It hears of connections from the broker, keeps the newest of
// each client identifier, and publishes the lifecycle events of AWS IoT Core.
//
// Promises:
//   - Hearing never waits for the database: a storm of reconnects is written as
//     the last state of each client, and only events that nobody could have
//     read in time are dropped, counted.
//   - A late word of an older connection does not undo a newer one.
//   - After a restart of the service nobody is shown as connected who is not.
//   - No address is kept: it is in the event and nowhere else (S43).
//
// Start reading at [Service.Hear].
package presence
