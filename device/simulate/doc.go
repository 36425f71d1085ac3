// Package simulate is a fleet in one process: thousands of devices, each with
// its own certificate, TLS session and MQTT connection, that connect in stages,
// publish at a rate, and tell how the service bears it.
//
// Promises:
//   - Each device is who its certificate says; nothing is shared between two but
//     the clock and the roots.
//   - A device that fails waits, at random, before it tries again, as real ones
//     do; only a storm that was asked for comes at one moment.
//   - What is counted was observed on this side: a connect ends with the CONNACK,
//     a publish with the PUBACK.
//
// Start reading at [Run].
package simulate
