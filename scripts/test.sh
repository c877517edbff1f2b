#!/bin/sh
# Everything that has to hold before a change is taken: format, vet, staticcheck, all tests on both engines, and the
# race detector over the platform. One PostgreSQL and one RabbitMQ serve the whole run.
set -eu
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
	if ! command -v go >/dev/null 2>&1; then
		echo "go is not in PATH: install Go $(sed -n 's/^go //p' go.mod) or newer from https://go.dev/dl/" >&2
		exit 1
	fi
	scripts/postgres.sh
	scripts/rabbitmq.sh
	scripts/webservers.sh
	# Built, not `go run`: that would turn every exit code into 1 and sit between us and a signal.
	mkdir -p .bin
	go build -o .bin/withservices ./internal/testinfra/withservices
	BANYAN_TEST_REQUIRE=1 exec .bin/withservices -memory "$0" inside
fi

began=$(date +%s)
budget=${BANYAN_TEST_BUDGET:-840} # seconds for the whole run
step() { echo "== $* ($(($(date +%s) - began)) s)"; }

step "gofmt"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted (run gofmt -w):" >&2
	echo "$unformatted" >&2
	exit 1
fi

step "go vet"
go vet ./...

step "staticcheck"
go tool staticcheck ./...

step "go test"
# Without tables for debuggers, which took the linker a third of its time. Vet has run.
go test -p 2 -vet=off -ldflags='-s -w' -timeout 10m ./...

# The race detector is several times slower, so it runs over the platform, where goroutines meet, in what is left
# of the time; `make race` runs it over everything.
left=$((budget - ($(date +%s) - began)))
if [ "$(go env CGO_ENABLED)" != 1 ] || ! command -v "$(go env CC)" >/dev/null 2>&1; then
	echo "== race: left out, the race detector needs a C compiler (apt-get install gcc)"
	exit 0
fi
if [ "$left" -lt 120 ]; then
	echo "== race: left out, only $left s of $budget s are left (make race)"
	exit 0
fi
step "race, the platform and the gateway, at most $left s"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Not what starts the binary: that is built without the detector.
packages=$(go list ./internal/... ./proxy/... | grep -v -e /internal/e2e -e /internal/bench)
code=0
# shellcheck disable=SC2086 # the packages are words
timeout --signal=INT --kill-after=20 "$left" go test -race -short -p 2 -timeout 10m $packages >"$log" 2>&1 || code=$?
cat "$log"
# What the end of the time interrupts is no failure, though go test says FAIL of its package.
if { [ "$code" = 124 ] || [ "$code" = 137 ]; } &&
	! sed -e '/^signal: interrupt$/{N;d;}' "$log" | grep -q -e '^WARNING: DATA RACE' -e '^ *--- FAIL' -e '^panic:' -e '^FAIL.*s$'; then
	echo "== race: not through after $left s, nothing found in what ran (make race runs all of it)"
	code=0
fi
if [ "$code" != 0 ]; then
	echo "== FAILED under the race detector" >&2
	exit 1
fi
step "all passed"
