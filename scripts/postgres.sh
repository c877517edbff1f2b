#!/bin/sh
# Makes sure that tests can have a PostgreSQL: a running one named by BANYAN_TEST_POSTGRES, or binaries to start one.
set -eu

have_postgres() {
	if command -v initdb >/dev/null 2>&1; then
		return 0
	fi
	for file in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb; do
		if [ -x "$file" ]; then
			return 0
		fi
	done
	return 1
}

if [ -n "${BANYAN_TEST_POSTGRES:-}" ] || have_postgres; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "PostgreSQL is missing: installing the package postgresql" >&2
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update && apt-get install -y --no-install-recommends postgresql; } >&2
	if have_postgres; then
		exit 0
	fi
fi
cat >&2 <<'END'
The tests need PostgreSQL, and this machine has none. Either
  - install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server), or
  - name a running server with a superuser: BANYAN_TEST_POSTGRES=postgres://postgres:password@host:5432/postgres
Plain `go test ./...` skips what needs it.
END
exit 1
