// Package console is the people's view of the service in a browser: what is
// being made, what is trusted, and what needs somebody's attention. It reads, and
// steers campaigns; all other changes are made with the command line and the API.
//
// Promises:
//   - Everything is readable and usable without JavaScript and by keyboard. The script
//     only turns times into the reader's own zone, and refreshes what goes on, but
//     never what the reader is in.
//   - A page shows text from devices and factories as text (A55): templates
//     escape by context, and the content security policy allows no inline
//     script or style and nothing from elsewhere. Characters that do not show but
//     turn or hide others are named; see text.go.
//   - A session lives in memory and ends with the token that opened it, after
//     half an hour without use, or after eight hours. Its cookie is new at every
//     sign-in, never readable by scripts, and never sent from another site.
//   - Every page and every change asks the same grants table as the API. A change
//     takes a form of the same session, sent from our own page, and is in the trail.
//
// Start reading at console.go, which has the table of pages, and nav.go, which
// puts them into the parts factory, trust and fleet. There is one function a
// page: pages.go has those about making, the other files those about the fleet. act.go
// has what changes something, chart.go what is drawn.
package console
