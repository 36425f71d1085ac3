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

# The database engine is C translated to Go, with locks of its own; the linter, the
# canonical form of JSON and the arithmetic of the cryptography compute and share
# nothing. Instrumenting them is half of the tests' time (a third was deriving keys
# from passphrases) and finds nothing of ours. Only packages without generic types of
# sync can be here: the linker keeps one copy of those, and without the detector in it
# everybody else's would look like races.
f=crypto/internal/fips140
quiet=
for p in modernc.org/... github.com/zmap/... github.com/gowebpki/... hallmark/internal/kdf golang.org/x/crypto/scrypt \
	math/big $f/sha256 $f/sha512 $f/hmac $f/pbkdf2 $f/nistec $f/nistec/fiat $f/bigmod; do
	quiet="$quiet -gcflags=$p=-race=false"
done

# A program with the race detector waits a second before it ends, for goroutines
# that are still racing; the tests start hundreds of programs.
export GORACE="atexit_sleep_ms=0 ${GORACE-}"

# The end-to-end tests are one package and most of the time, and they wait more
# than they work: two halves of them run beside the other packages. The servers,
# tokens and databases that a test starts are its own, in directories and on ports
# of its own, and a loaded machine is part of the test. -timeout is a package's;
# the whole stays under 25 minutes on two cores.
e2e=hallmark/cmd/hallmark
if [ -n "${TESTFLAGS-}" ]; then
	exec go test -race $quiet -timeout 24m $TESTFLAGS ./...
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
go test -race $quiet -c -o "$logs/e2e" ./cmd/hallmark
cd cmd/hallmark
"$logs/e2e" -test.list . | grep -E '^(Test|Fuzz|Example)' >"$logs/all" # fails if there is none
for half in 0 1; do
	names=$(awk -v h=$half 'NR % 2 == h { printf "%s%s", sep, $1; sep = "|" }' "$logs/all")
	"$logs/e2e" -test.timeout 24m -test.v -test.run "^($names)\$" >"$logs/$half" 2>&1 &
	eval "pid$half=$!"
done
cd ../..
echo "test: end-to-end tests built after $(since) s"
failed=0
go test -race $quiet -timeout 24m $(go list ./... | grep -vx "$e2e") || failed=1
echo "test: packages done after $(since) s"
for half in 0 1; do
	if eval "wait \$pid$half"; then
		echo "ok  	$e2e, half $half of the tests, after $(since) s; the slowest:"
		sed -n 's/^--- PASS: \([^ ]*\) (\(.*\)s)$/\2 \1/p' "$logs/$half" | sort -rn | head -12 | sed 's/^/	/'
	else
		failed=1
		# Only what did not pass, and what was running at the end.
		awk '/^=== RUN +[^\/]*$/ { text = ""; show = 0; hide = 0 }
			/^--- FAIL/ { printf "%s", text; text = ""; show = 1 }
			/^--- (PASS|SKIP)/ { text = ""; hide = 1 }
			show { print; next }
			!hide { text = text $0 "\n" }
			END { printf "%s", text }' "$logs/$half"
		echo "FAIL	$e2e, half $half"
	fi
done
echo "test: done after $(since) s"
exit $failed
