# `make run` and `make test` need only Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
# What `make run` puts through the nodes, where the first listens, and whether they stop afterwards (ONCE=1).
FILE ?= README.md
LISTEN ?= 127.0.0.1:8400
ONCE ?=
# What runs the tests under pytest: `coverage run -m pytest` counts coverage.
PYTEST ?= pytest
# Which tests: files or folders, or parts of the list below. In so many processes: most of them wait most of the time.
TESTS ?= tests
JOBS ?= 4
# Everything in its full number, which takes half an hour; see LESS.
FULL ?=
CYCLES ?= 300

# Everything the installed package is made of: a change makes pip install it again.
SOURCES := $(shell find loghouse twisted -name '*.py' -o -name '*.pyi' -o -name py.typed) \
	setup.cfg pyproject.toml README.md

# The parts that together are all tests. CI counts coverage in `counted` (one core, no sockets) and in `doors` (what
# listens in the test's own process); `planted` are the bugs that tests must find, and simulated towns and clusters,
# `processes` whole nodes. What is new belongs to `counted` when it is a file in tests/, else to `doors`.
file_tests = $(patsubst %,tests/test_%.py,$(1))
PART_planted := tests/mutants tests/sim $(call file_tests,backup_mutants certificate_mutants cursor_mutants door_mutants driving_mutants group_mutants keeping_mutants log_mutants operating_mutants) \
	$(patsubst %,tests/gossip/test_%.py,mutants attacks failures properties regressions restart slow_node)
PART_processes := tests/cluster tests/compat tests/console tests/e2e $(call file_tests,docs floors packaging tidy)
PART_counted := tests/auth tests/protocol tests/raft tests/storage $(filter-out $(PART_planted) $(PART_processes) \
	$(call file_tests,bridge raw_client_example tap),$(wildcard tests/gossip/test_*.py tests/test_*.py))
PART_doors := $(filter-out tests/gossip $(PART_planted) $(PART_processes) $(PART_counted), \
	$(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py)) $(wildcard tests/test_*.py))
TEST_PATHS = $(foreach part,$(TESTS),$(or $(PART_$(part)),$(part)))

# Tests start hundreds of processes: compile once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run venv requirements certs man test test-pytest test-trial lint types proto proto-go drift coverage coverage-report packaging tools release screenshots bench abuse bench-cluster compare cost fuzz kill kill-cluster kill-group sim sim-ci mutate check clean

help:
	@echo 'make run      three nodes with certificates; FILE=... LISTEN=... ONCE=1'
	@echo 'make test     the suite under both runners; TESTS=tests/raft a part of it, FULL=1 all of its slow tests'
	@echo 'make fuzz     every decoder against FUZZ=100000 inputs'
	@echo 'make check    everything that must be green: lint, types, drift, tests'
	@echo 'also: venv, requirements, certs, man, proto, coverage, packaging, tools, release ADDRESS=..., screenshots, bench, abuse, bench-cluster, compare PEER=... SHAPE=..., cost, kill CYCLES=..., kill-cluster CYCLES=..., sim HOURS=..., sim-ci, mutate PACKAGE=... N=..., clean'

# --- environments: each has a stamp file, newer than what it was made from ------

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Loghouse needs Python 3.11 or later; this is %s. Try: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# The package alone, not editable, for `make run`: what a user would get.
$(VENV)/.installed: $(VENV)/pyvenv.cfg $(SOURCES)
	@rm -rf build/lib  # setuptools would pack modules that are long gone
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[node]'
	@touch $@

# What tests and checks need, CI's too: exactly the files that requirements/dev.txt has the hashes of.
PIP_PINNED := -m pip install --quiet --disable-pip-version-check --require-hashes

$(VENV)/.developed: $(VENV)/pyvenv.cfg $(SOURCES) requirements/dev.txt
	@rm -rf build/lib
	$(BIN)/python $(PIP_PINNED) -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@$(BIN)/python -m compileall -q -j 0 loghouse tests bench
	@touch $(VENV)/.installed $@

$(PROTO_VENV)/.installed: requirements/proto.txt
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python $(PIP_PINNED) -r requirements/proto.txt
	@touch $@

# Both files anew, with the newest versions that setup.cfg allows, by the oldest Python that we serve: it needs no
# less than later ones do. Some minutes: every file of every package is hashed.
COMPILE := build/requirements/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-options --no-emit-find-links --no-emit-index-url --no-header --no-annotate

requirements:
	$(PYTHON) -m venv build/requirements
	build/requirements/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	$(COMPILE) --extra dev --output-file requirements/dev.txt setup.cfg
	$(COMPILE) --output-file requirements/proto.txt requirements/proto.in

# --- use -------------------------------------------------------------------------

run: $(VENV)/.installed
	@$(BIN)/loghouse demo --file '$(FILE)' --listen '$(LISTEN)' $(if $(ONCE),--once)

certs: $(VENV)/.installed
	$(BIN)/loghouse certs init
	$(BIN)/loghouse certs node node-1 --cluster loghouse --host localhost --host 127.0.0.1
	$(BIN)/loghouse certs client root
	$(BIN)/loghouse certs client nobody

# loghouse(1), out of the command's own parser.
man: $(VENV)/.developed
	@mkdir -p build
	$(BIN)/python .ci/man_page.py > build/loghouse.1

# What a developer needs, without running anything.
venv: $(VENV)/.developed

# --- checks ----------------------------------------------------------------------

test: test-pytest test-trial
# What trial runs is what pytest ran just now, seeds and all: the least of it.
test: TRIED := 1

# `make test` does less of what takes longest, for its two runners are to end within minutes: each is a knob of its
# own (CONTRIBUTING.md). FULL=1, as in CI, leaves them alone.
LESS := LOGHOUSE_LONG_TESTS=0 LOGHOUSE_CRASH_STATES=50 LOGHOUSE_BIT_FLIPS=0.001 LOGHOUSE_WALKS=10 LOGHOUSE_FUZZ=300 \
	FUZZ_EXAMPLES=100 FUZZ_MUTATIONS=1000 LOGHOUSE_KILL_CYCLES=1 LOGHOUSE_GOSSIP_HOURS=0.1 LOGHOUSE_SIM_SEEDS=5 \
	LOGHOUSE_SIM_FULL_SEEDS=2 LOGHOUSE_SIM_LOGS_SEEDS=2

# Of what is tried by the number the least (SHORT=1), for a run beside another one that tries more of it.
LEAST := LOGHOUSE_CRASH_STATES=25 LOGHOUSE_WALKS=3 LOGHOUSE_WALK_SEEDS=1 LOGHOUSE_MENDING_SEEDS=1 LOGHOUSE_FUZZ=50 \
	FUZZ_EXAMPLES=50 FUZZ_MUTATIONS=200 LOGHOUSE_HOSTILE_ROUNDS=5 LOGHOUSE_THOROUGH_TESTS=0 LOGHOUSE_PLANTED_BUGS=0 \
	LOGHOUSE_CHILD_TESTS=0 LOGHOUSE_BIT_FLIPS=0.0005 LOGHOUSE_GOSSIP_HOURS=0.02
SHORT ?=
knobs = $(if $(FULL),,$(LESS)) $(if $(1),$(LEAST))

test-pytest: $(VENV)/.developed
	$(call knobs,$(SHORT)) $(BIN)/python $(if $(JOBS),.ci/parts.py pytest $(JOBS) $(PARTS),-m $(PYTEST) $(TEST_PATHS))

# What one process runs; JOBS of them at a time.
PARTS = $(if $(filter tests,$(TEST_PATHS)),$(foreach part,planted processes counted doors,$(PART_$(part))),$(TEST_PATHS))
test-trial: $(VENV)/.developed
	LOGHOUSE_PROCESS_TESTS=0 $(call knobs,$(SHORT)$(if $(FULL),,$(TRIED))) \
		$(BIN)/python .ci/parts.py trial $(or $(JOBS),1) $(PARTS)

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developed
	$(BIN)/mypy

# What the tests in their own process reach, and whether that is enough of each package.
COUNT := coverage run -m pytest
coverage: $(VENV)/.developed
	COVERAGE_FILE=.coverage.all $(MAKE) test-pytest TESTS='counted doors' JOBS= SHORT=1 PYTEST='$(COUNT)'
	$(MAKE) coverage-report

coverage-report: $(VENV)/.developed
	@mkdir -p build
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage json --quiet -o build/coverage.json
	$(BIN)/python .ci/coverage.py build/coverage.json

packaging: $(VENV)/.developed
	LOGHOUSE_PACKAGING=1 $(BIN)/python -m pytest --timeout 900 tests/test_packaging.py tests/deploy/test_image.py

# Helm, with which tests/deploy draws the chart: five minutes of processor time the first time, so CI leaves it out.
tools:
	GOBIN=$(CURDIR)/build/tools go install helm.sh/helm/v3/cmd/helm@v3.20.2

# What is published, in dist/. ADDRESS is where the repository can be read (CONTRIBUTING.md).
ADDRESS ?=
release: $(VENV)/.developed
	$(BIN)/python .ci/release.py '$(ADDRESS)'

# The pictures in docs/console.md, anew, by the tests of the console.
screenshots: $(VENV)/.developed
	LOGHOUSE_SCREENSHOTS=docs/images $(BIN)/python -m pytest --timeout 600 tests/console

bench: $(VENV)/.developed
	$(BIN)/python -m bench.storage
	$(BIN)/python -m bench.grpc_node
	$(BIN)/python -m bench.wire

# Each decoder against so many inputs; tens of minutes in all for 100,000.
FUZZ ?= 100000
fuzz: $(VENV)/.developed
	FUZZ_EXAMPLES=$(FUZZ) FUZZ_MUTATIONS=$(FUZZ) $(BIN)/python -m pytest --timeout 3600 -k 'Fuzz or Mutation or random_bytes' tests/protocol tests/net/test_client_hello.py

# What a subject at the bound of each resource costs another one, and how long one request holds a node.
abuse: $(VENV)/.developed
	$(BIN)/python -m bench.abuse --seconds 10
	$(BIN)/python -m bench.turns

bench-cluster: $(VENV)/.developed
	$(BIN)/python -m bench.cluster
	$(BIN)/python -m bench.consumers

# Loghouse beside other logs, in alternating runs; PEER='nats kafka' SHAPE='1k64 failover' these alone, DOCS=1 makes the
# section of docs/performance.md anew. What it builds and installs stays in build/compare.
compare: $(VENV)/.developed
	$(BIN)/python -m bench.compare $(PEER:%=--peer %) $(SHAPE:%=--shape %) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DOCS),--docs)

# Whether an append and a start cost the processor what they did: under a minute.
cost: $(VENV)/.developed
	$(BIN)/python -m bench.cost --check

kill: $(VENV)/.developed
	LOGHOUSE_KILL_CYCLES=$(CYCLES) $(BIN)/python -m pytest --timeout=0 tests/e2e/test_kill.py

# Three real nodes, so many rounds of each fault; 30 take about an hour.
kill-cluster: $(VENV)/.developed
	LOGHOUSE_CLUSTER_CYCLES=$(CYCLES) $(BIN)/python -m pytest --timeout=0 tests/cluster

# A group of five workers on three nodes while both are killed, for ten minutes; see bench/group_faults.py.
kill-group: $(VENV)/.developed
	$(BIN)/python -m bench.group_faults --seconds 600

# Simulated clusters for so many cluster-hours, with FULL=1 of whole nodes, with LOGS=8 with so many named logs
# beside; see docs/simulation.md.
HOURS ?= 1
sim: $(VENV)/.developed
	$(BIN)/python -m loghouse.testing.sim $(if $(LOGS),--logs $(LOGS),$(if $(FULL),--full)) --hours $(HOURS) --json simulation.json

# Every planted bug must be found, then clean seeds: about 5 minutes on one core.
sim-ci: $(VENV)/.developed
	$(BIN)/python -m loghouse.testing.sim --ci --json simulation.json

# Random mutants of PACKAGE (default: every part of the product), or of the lines that are new since the commit
# CHANGED; BUDGET bounds the seconds. See docs/mutation.md.
N ?= 40
SEED ?= 1
BUDGET ?= 0
mutate: $(VENV)/.developed
	$(BIN)/python -m bench.mutate $(PACKAGE) $(if $(CHANGED),--changed $(CHANGED)) $(if $(AGAIN),--again) \
		--count $(N) --seed $(SEED) --seconds $(BUDGET)

check: lint types drift test

# --- generated code ----------------------------------------------------------------

# An old generator: what it makes runs with every newer grpcio and protobuf.
PROTOC := $(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto proto/loghouse/api/v1/log.proto

# The original's API, which its clients still speak: stubs for the tests alone.
COMPAT := tests/compat
COMPAT_PROTOC := $(PROTO_VENV)/bin/python -m grpc_tools.protoc -I $(COMPAT)/original $(COMPAT)/original/api/v1/log.proto

proto: $(PROTO_VENV)/.installed
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=.
	$(COMPAT_PROTOC) --python_out=$(COMPAT)/python --grpc_python_out=$(COMPAT)/python

# The stubs of the Go client in tests/compat; needs Go. Its test sees when they are not the original's.
proto-go: $(PROTO_VENV)/.installed
	GOBIN=$(CURDIR)/build/go go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10
	GOBIN=$(CURDIR)/build/go go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
	PATH=$(CURDIR)/build/go:$$PATH $(COMPAT_PROTOC) --go_out=$(COMPAT)/go --go-grpc_out=$(COMPAT)/go \
		--go_opt=module=loghouse.test/compat,Mapi/v1/log.proto=loghouse.test/compat/api/v1 \
		--go-grpc_opt=module=loghouse.test/compat,Mapi/v1/log.proto=loghouse.test/compat/api/v1

drift: $(PROTO_VENV)/.installed
	@rm -rf build/proto && mkdir -p build/proto
	$(PROTOC) --python_out=build/proto --pyi_out=build/proto --grpc_python_out=build/proto
	@mkdir -p build/proto/$(COMPAT)/python
	$(COMPAT_PROTOC) --python_out=build/proto/$(COMPAT)/python --grpc_python_out=build/proto/$(COMPAT)/python
	@cd build/proto && find . -type f | while read -r file; do \
		diff -u "../../$$file" "$$file" \
		|| { echo "generated code differs from its .proto: run make proto and commit"; exit 1; }; \
	done

clean:
	rm -rf $(VENV) $(PROTO_VENV) build dist dev *.egg-info _trial_temp* .coverage*
