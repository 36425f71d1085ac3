#!/bin/sh
# What `make release` does: the program, twice, from two places. If both are the same
# octets, dist/ gets it with its bill of materials and their hashes.
# FIPS=1 builds with the validated Go Cryptographic Module, in FIPS mode.
set -eu
cd "$(dirname "$0")/.."

version=${VERSION:?}
name=hallmark
if [ -n "${FIPS-}" ]; then
	name=hallmark-fips
	export GOFIPS140=v1.0.0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for n in 1 2; do
	mkdir "$work/$n"
	git archive HEAD | tar -x -C "$work/$n"
	# -buildvcs needs a repository; the commit is in the version.
	(cd "$work/$n" && go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$work/$name.$n" ./cmd/hallmark)
	echo "release: built $name, $n of 2"
done
if ! cmp "$work/$name.1" "$work/$name.2"; then
	echo "release: the two builds differ" >&2
	exit 1
fi
mkdir -p dist
cp "$work/$name.1" "dist/$name"
"dist/$name" sbom >"dist/$name.cdx.json"
(cd dist && sha256sum "$name" "$name.cdx.json" >"$name.sha256" && cat "$name.sha256")
"dist/$name" version
