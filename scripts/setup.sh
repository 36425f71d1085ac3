#!/bin/sh
# Installs the Debian packages that running and testing need, once. Nothing is
# asked of the network when nothing is missing.
set -eu

packages="
	gcc libc6-dev pkg-config libpcsclite-dev
	softhsm2 opensc p11-kit p11-kit-modules
	pcscd vsmartcard-vpcd
	postgresql sqlite3 mosquitto mosquitto-clients
	openssl gnutls-bin curl
	chromium python3
	iproute2 util-linux tmux strace
"

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go is missing. Install Go 1.26 or later and put it on PATH." >&2
	exit 1
fi

if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "setup: this is not Debian; install what these Debian packages hold:" $packages >&2
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
