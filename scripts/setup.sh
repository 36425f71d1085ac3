#!/bin/sh
# Installs what running and testing need, once: Debian packages, the device SDK that
# the tests judge the service with, and an S3 store. Nothing is asked of the network when
# nothing is missing.
set -eu
cd "$(dirname "$0")/.."

packages="
	gcc libc6-dev pkg-config libpcsclite-dev
	softhsm2 opensc p11-kit p11-kit-modules
	libtpm2-pkcs11-1 swtpm tpm2-tools libnss3 libnss3-tools
	pcscd vsmartcard-vpcd
	postgresql sqlite3 mosquitto mosquitto-clients
	openssl gnutls-bin curl jq certbot
	chromium python3 python3-paho-mqtt python3-cryptography zbar-tools
	strongswan-pki libstrongswan-standard-plugins libstrongswan-extra-plugins
	iproute2 util-linux tmux strace
"

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go is missing. Install Go 1.26 or later and put it on PATH." >&2
	exit 1
fi

# Any Node.js will do, Debian's or another: it runs the device SDK.
command -v node >/dev/null 2>&1 || packages="$packages nodejs"
command -v npm >/dev/null 2>&1 || packages="$packages npm"

# npms installs the npm packages that a package-lock.json names, with their hashes.
# None of their install scripts is run: the SDK brings its library along. Without
# them only their own tests are left out (in CI those tests fail).
npms() (
	cd "$1"
	if cmp -s package-lock.json node_modules/installed-lock.json; then
		exit 0
	fi
	if ! command -v npm >/dev/null 2>&1; then
		echo "setup: npm is missing; the tests with $2 are left out" >&2
		exit 0
	fi
	echo "setup: installing $2 for the tests: npm ci in $1"
	if out=$(npm ci --ignore-scripts --no-audit --no-fund 2>&1); then
		cp package-lock.json node_modules/installed-lock.json
	else
		echo "$out" | tail -n 20 >&2
		echo "setup: npm ci failed; the tests with $2 are left out" >&2
	fi
)

sdk() {
	npms cmd/hallmark/testdata/sdk "the device SDK"
	npms internal/s3/s3test/testdata "an S3 store"
}

if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "setup: this is not Debian; install what these Debian packages hold:" $packages >&2
	sdk
	exit 0
fi

missing=""
for p in $packages; do
	# "ii ", "hi ": installed; anything else is absent or half installed.
	case "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" in
	installed) ;;
	*) missing="$missing $p" ;;
	esac
done
if [ -z "$missing" ]; then
	sdk
	exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
	echo "setup: missing Debian packages; as root: apt-get install -y --no-install-recommends$missing" >&2
	exit 1
fi

echo "setup: installing missing Debian packages:$missing"

# A package must not leave a daemon behind: Debian asks this file before it
# starts one, and 101 means no (the card daemon would hold readers that the
# tests own, the database server a port). A file of the machine's own stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' INT TERM
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086 # a list of names
if ! { apt-get -o DPkg::Lock::Timeout=300 update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 30 "$log" >&2
	rm -f "$log"
	echo "setup: apt-get failed; install by hand:$missing" >&2
	exit 1
fi
rm -f "$log"
sdk
