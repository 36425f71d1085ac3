#!/bin/sh
# What `make test` runs: gofmt, go vet, then every test with the race detector.
# The last lines are go test's own. CI=true turns skips for want of a tool or a
# token into failures.
set -eu
cd "$(dirname "$0")/.."

start=$(date +%s)
since() { echo $(($(date +%s) - start)); }

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "test: not formatted (gofmt -w):" $unformatted >&2
	exit 1
fi
echo "test: gofmt clean after $(since) s"

go vet ./...
echo "test: go vet clean after $(since) s"

# As many packages at once as there are cores, which is go's default: the
# servers, tokens and databases that a package starts are its own, in
# directories and on ports of its own, and a loaded machine is part of the test.
# -timeout is a package's; the whole stays under 25 minutes on two cores.
exec go test -race -timeout 24m ${TESTFLAGS-} ./...
