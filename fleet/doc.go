// Package fleet has the words that everything about devices after first boot
// shares. It does nothing itself.
//
// Start reading at [ThingName].
package fleet
