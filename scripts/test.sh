#!/bin/sh
# What `make test` runs: gofmt, go vet, then every test with the race detector.
# CI=true turns skips for want of a tool or a token into
# failures.
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

# The end-to-end tests are one package and most of the time, and they wait more
# than they work: two halves of them run beside the other packages. The servers,
# tokens and databases that a test starts are its own, in directories and on ports
# of its own, and a loaded machine is part of the test. -timeout is a package's;
# the whole stays under 25 minutes on two cores.
e2e=hallmark/cmd/hallmark
if [ -n "${TESTFLAGS-}" ]; then
	exec go test -race -timeout 24m $TESTFLAGS ./...
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
go test -race -list . ./cmd/hallmark >"$logs/list"
grep -E '^(Test|Fuzz|Example)' "$logs/list" >"$logs/all" # fails if there is none
for half in 0 1; do
	names=$(awk -v h=$half 'NR % 2 == h { printf "%s%s", sep, $1; sep = "|" }' "$logs/all")
	go test -race -timeout 24m -run "^($names)\$" ./cmd/hallmark >"$logs/$half" 2>&1 &
	eval "pid$half=$!"
done
failed=0
go test -race -timeout 24m $(go list ./... | grep -vx "$e2e") || failed=1
for half in 0 1; do
	eval "wait \$pid$half" || failed=1
	cat "$logs/$half"
done
echo "test: done after $(since) s"
exit $failed
