#!/bin/sh
# Makes sure that tests can have nginx and haproxy, the origins that the gateway is tried against.
set -eu

have() {
	for dir in $(echo "$PATH" | tr ':' ' ') /usr/sbin /usr/local/sbin /opt/homebrew/bin; do
		if [ -x "$dir/$1" ]; then
			return 0
		fi
	done
	return 1
}

if have nginx && have haproxy; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "nginx or haproxy is missing: installing the packages nginx and haproxy" >&2
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update && apt-get install -y --no-install-recommends nginx haproxy; } >&2
	if have nginx && have haproxy; then
		exit 0
	fi
fi
cat >&2 <<'END'
The tests of the gateway need nginx and haproxy, and this machine has not both. Install them (Debian, Ubuntu: apt-get install
nginx haproxy; Fedora: dnf install nginx haproxy).
Plain `go test ./...` skips what needs them.
END
exit 1
