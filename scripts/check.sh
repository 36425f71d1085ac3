#!/bin/sh
# What `make check` runs: everything that can be said about the code without
# running it, and the test of the import arrows.
set -eu
cd "$(dirname "$0")/.."

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.8.0

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "check: not formatted (gofmt -w):" $unformatted >&2
	exit 1
fi
echo "check: gofmt clean"

go vet ./...
echo "check: go vet clean"

# Generated files are checked too: what is generated is shipped.
# Analysers are run by exact version and are no part of our module graph.
go run "$staticcheck" ./...
echo "check: staticcheck clean"

# go's cache of test results does not see a package that nothing imports yet.
go test -count 1 -run TestArrows ./cmd/hallmark

# The database of known flaws: GOVULNDB, a copy beside this repository, or the
# public one.
db=${GOVULNDB-}
if [ -z "$db" ] && [ -f ../shared/vulndb/index/db.json ]; then
	db="file://$(cd ../shared/vulndb && pwd)"
fi
if [ -z "$db" ] && ! curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then
	echo "check: SKIPPED govulncheck: its database is not reachable; set GOVULNDB to a copy"
	exit 0
fi
go run "$govulncheck" ${db:+-db "$db"} ./...
echo "check: govulncheck clean"
