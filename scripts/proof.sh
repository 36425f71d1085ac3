#!/bin/sh
# What `make proof` runs by hand before a release: the tests in their long form,
# then every fuzz target for FUZZTIME.
set -eu
cd "$(dirname "$0")/.."

HALLMARK_PROOF=1 CI=true go test -race -gcflags=modernc.org/...=-race=false -timeout 6h -count 1 ./...
# What the race detector's slowness would hide.
HALLMARK_PROOF=1 CI=true go test -count 1 -run TestWays_FewSyncs ./cmd/hallmark

go list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r pkg dir; do
	for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | sort -u); do
		echo "proof: $pkg $f"
		go test -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-60s}" "$pkg" </dev/null
	done
done
