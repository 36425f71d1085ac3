// Package stationtest is a service for tests of the station: the factory and
// enrolment doors over real TLS, with real certificates and in memory. It keeps
// the promises that a station leans on (the same key gets the same certificate
// and unit) and misbehaves when told to.
package stationtest
