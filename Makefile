# rlstore: `make` lists the targets.

GO          ?= go
STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 10s
FAULTS_SEED   ?=
FAULTS_LENGTH ?= 2m
FAULTS_RUNS   ?= 1
SIM_SEEDS   ?= 1-200
BENCH       ?= .
SCALE       ?=

# The packages whose promises hang on goroutines. They run under the race
# detector, and only there; the others would only get slower by it.
RACE    = ./bench/load/... ./client/... ./httpapi/... ./lease/... ./limiter/... ./raftnode/... ./server/...
CLUSTER = ./cluster-test/...

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/rlstore, a static binary
	CGO_ENABLED=0 $(GO) build -o bin/rlstore ./cmd/rlstore

.PHONY: test
test: build lint unit race cluster ## everything that must pass before a change is merged

.PHONY: lint
lint: ## formatting, go vet, staticcheck; the tree's own rules run with the unit tests
	@test -z "$$(gofmt -l .)" || { echo "not formatted, run make fmt:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

.PHONY: unit
unit: ## tests of the packages that need no race detector
	$(GO) test $$($(GO) list ./... | grep -vxFf <($(GO) list $(RACE) $(CLUSTER)))

.PHONY: race
race: ## tests of the concurrent packages, under the race detector
	$(GO) test -race $(RACE)

.PHONY: cluster
cluster: ## tests of several real nodes under faults
	$(GO) test -timeout 20m $(CLUSTER)

.PHONY: sim
sim: ## a cluster in virtual time, so that seeds repeat: SIM_SEEDS=1-1000
	$(GO) run ./cluster-test/sim/overlay -o bin/_overlay
	RLSTORE_SIM_SEEDS=$(SIM_SEEDS) $(GO) test -overlay "$$PWD/bin/_overlay/overlay.json" -count 1 -timeout 0 -v -run TestSeeds ./cluster-test/sim

.PHONY: faults
faults: ## real processes under every kind of fault: FAULTS_RUNS, FAULTS_LENGTH, FAULTS_SEED
	$(GO) run ./cluster-test/faults run -length $(FAULTS_LENGTH) -runs $(FAULTS_RUNS) $(if $(FAULTS_SEED),-seed $(FAULTS_SEED))

.PHONY: bench
bench: ## benchmarks; BENCH=regexp picks some
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: compare
compare: ## rlstore beside Redis, etcd and the bare parts, in one table; COMPARE="-rounds 3", or -growth
	bench/compare/compare.sh $(COMPARE)

.PHONY: scale
scale: build ## memory, snapshots and restart with ten million buckets; idle shards: SCALE=flags
	$(GO) run ./bench/scale $(SCALE)

# Only our own code guides the fuzzer. With go test -fuzz that of every dependency does,
# and half of the time goes into looking through its counters.
.PHONY: fuzz
fuzz: ## every fuzz test for FUZZTIME, 10s unless set; 1000000x is a number of executions
	@failed=0; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; module=$$($(GO) list -m); cache=$$($(GO) env GOCACHE)/fuzz; \
	while IFS=: read -r file func; do \
		pkg=$$(dirname "$$file"); name=$${func#func }; bin=$$dir/$${pkg//\//_}.test; log=$$dir/log; \
		printf '%-18s %-20s ' "$$pkg" "$$name"; \
		if { [ -x "$$bin" ] || $(GO) test -c -gcflags="$$module/...=-d=libfuzzer" -o "$$bin" "./$$pkg"; } >"$$log" 2>&1 && \
			(cd "$$pkg" && "$$bin" -test.run '^$$' -test.fuzz "^$$name\$$" -test.fuzztime $(FUZZTIME) -test.fuzzcachedir "$$cache/$$module/$$pkg") >"$$log" 2>&1; then \
			sed -n 's/^fuzz: elapsed: \([^,]*\), execs: \([0-9]*\) .*new interesting: \([0-9]*\).*/\2 executions in \1, \3 new inputs/p' "$$log" | tail -n 1; \
		else \
			echo FAILED; cat "$$log"; failed=1; \
		fi; \
	done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' . | sed 's|^\./||' | sort); \
	exit $$failed

.PHONY: fmt
fmt: ## format the sources
	gofmt -w .

.PHONY: cover
cover: ## coverage of every package by every test: cover.html
	$(GO) test -coverpkg=./... -coverprofile=cover.out ./...
	$(GO) tool cover -html=cover.out -o cover.html
	$(GO) tool cover -func=cover.out | tail -n 1

.PHONY: clean
clean: ## remove what the targets made
	rm -rf bin cover.out cover.html

# Pipelines and <() need bash; a pipeline fails with its first failure.
SHELL       := bash
.SHELLFLAGS := -o pipefail -c
