#!/bin/sh
# Makes sure that tests can have a RabbitMQ: a running one named by BANYAN_TEST_RABBITMQ_URL, or a server to start.
set -eu

have_rabbitmq() {
	for file in /usr/lib/rabbitmq/bin/rabbitmq-server /opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server /usr/local/opt/rabbitmq/sbin/rabbitmq-server; do
		if [ -x "$file" ] && command -v epmd >/dev/null 2>&1; then
			return 0
		fi
	done
	return 1
}

if [ -n "${BANYAN_TEST_RABBITMQ_URL:-}" ] || have_rabbitmq; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "RabbitMQ is missing: installing the package rabbitmq-server" >&2
	export DEBIAN_FRONTEND=noninteractive
	# The package starts its service; tests start servers of their own. What was there to decide on services stays.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	{ apt-get update && apt-get install -y --no-install-recommends rabbitmq-server; } >&2
	if have_rabbitmq; then
		exit 0
	fi
fi
cat >&2 <<'END'
The tests need RabbitMQ, and this machine has none. Either
  - install it (Debian, Ubuntu: apt-get install rabbitmq-server), or
  - run it and name it: docker run -d --rm -p 5672:5672 -p 15672:15672 rabbitmq:management
    BANYAN_TEST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:5672/ (an administrator; its management plugin on port 15672, or as
    BANYAN_TEST_RABBITMQ_ADMIN_URL says). Tests of outages start servers of their own and need the installed one.
Plain `go test ./...` skips what needs it.
END
exit 1
