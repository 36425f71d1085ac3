// Package clock is the program's only source of time. Everything else takes a
// function that tells it and calls time.Now nowhere on its own.
//
// A release build tells the system's time. A build with the tag testclock adds
// an offset, so that a test can move the clock of a whole process, which
// nothing outside a Go program can do. [Test] says which one this is;
// production mode refuses to start with the second (S38).
package clock
