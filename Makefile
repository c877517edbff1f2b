# `make` prints this help. What the targets need is in go.mod; `make test` installs PostgreSQL, RabbitMQ, nginx and haproxy on Debian if it is root.
.DEFAULT_GOAL := help
.PHONY: help run build test race soak bench fuzz lint vuln docs golden

with_services = scripts/postgres.sh && scripts/rabbitmq.sh && scripts/webservers.sh && go run ./internal/testinfra/withservices

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## the shop on http://localhost:8080, with its data in ./data
	go run .

build: ## the binary, ./banyan
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o banyan .

test: ## what has to hold: format, vet, staticcheck, all tests on SQLite and PostgreSQL, races in the platform
	scripts/test.sh

race: ## all tests under the race detector
	BANYAN_TEST_REQUIRE=1 $(with_services) go test -race -p 2 -timeout 60m ./...

soak: build ## the slow tests too: all data, many kills, a million messages (hours); each module out and home 20 times, reported in docs/proof
	BANYAN_TEST_SOAK=1 BANYAN_TEST_REQUIRE=1 $(with_services) go test -p 1 -timeout 6h ./...
	scripts/postgres.sh && scripts/rabbitmq.sh
	./banyan prove --all --cycles 20 --out docs/proof/calm
	./banyan prove --all --cycles 20 --kill --out docs/proof/kill

bench: ## the benchmarks, on SQLite and PostgreSQL (docs/benchmarks.md has figures)
	BANYAN_TEST_REQUIRE=1 $(with_services) go test -run '^$$' -bench . -benchtime 5000x -timeout 60m ./internal/bench/... ./internal/bus/rabbit
	BANYAN_TEST_REQUIRE=1 $(with_services) go test -run '^$$' -bench 'Checkout|Orders' -benchtime 1000x -timeout 60m ./internal/e2e
	BANYAN_TEST_REQUIRE=1 $(with_services) go test -run '^$$' -bench Flip -benchtime 50x ./internal/e2e
	BANYAN_TEST_REQUIRE=1 $(with_services) go test -run '^$$' -bench 'Replay|Start|IdleMemory' -benchtime 1x -timeout 60m ./internal/e2e

fuzz: ## every fuzz target for FUZZTIME (30s)
	scripts/fuzz.sh

lint: ## format, vet and staticcheck alone
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not formatted: run gofmt -w"; exit 1; }
	go vet ./...
	go tool staticcheck ./...

vuln: ## known vulnerabilities in what the binary uses (asks vuln.go.dev)
	go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

docs: ## OpenAPI and AsyncAPI documents from the code
	go run . docs

golden: ## rewrite the golden files of messages that are not released
	go test ./modules/*/*api -update
