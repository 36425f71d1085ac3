# make run    builds the program and starts the demonstration; needs nothing but Go
# make test   every test with the race detector; needs nothing but Go
# make check  analysers: gofmt, vet, staticcheck, govulncheck, import arrows
# make bench  benchmarks, short
# make proof  the long proofs: hundreds of kills, fuzzing, millions of rows; hours
# make build  bin/hallmark
# make release  dist/hallmark, built twice to prove that it can be built again, with its
#               bill of materials (CycloneDX) and hashes
# make fips   the same with the validated Go Cryptographic Module: dist/hallmark-fips
#
# On Debian, run and test install the packages that are missing (as root).

MAKEFLAGS += --no-print-directory
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BENCHTIME ?= 1s
FUZZTIME  ?= 60s

.PHONY: run test check bench build proof release fips setup clean

run: setup build
	rm -rf demo
	bin/hallmark demo --dir demo --hsm softhsm

test: setup
	@exec scripts/test.sh

check:
	@exec scripts/check.sh

bench: setup
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

proof: setup
	FUZZTIME=$(FUZZTIME) exec scripts/proof.sh

build:
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/hallmark ./cmd/hallmark

release:
	@VERSION=$(VERSION) exec scripts/release.sh

fips:
	@FIPS=1 VERSION=$(VERSION) exec scripts/release.sh

setup:
	@scripts/setup.sh

clean:
	rm -rf bin demo dist
