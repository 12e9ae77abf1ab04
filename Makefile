# SPDX-License-Identifier: Apache-2.0
# One command per job; each sets up what it needs first. `make help` lists them.
BUILD ?= build
PREFIX ?= /usr/local
CONFIG ?=
MESON_ARGS ?=

.PHONY: help all build run test check format sanitize reproducible fuzz agree campaign bench tour starter-model install uninstall clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

all: build

build: ## build everything into build/
	@tools/setup build
	@[ -e $(BUILD)/build.ninja ] || meson setup $(BUILD) $(MESON_ARGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@tools/quiet-ninja $(BUILD)

run: build ## build, then serve on 127.0.0.1:8484
	@exec $(BUILD)/src/cli/tandem serve $(if $(CONFIG),--config $(CONFIG))

test: ## everything a change must pass, closing with "N passed, N failed"
	@tools/setup test
	@$(MAKE) --no-print-directory build
	@tools/run-tests $(BUILD)

check: ## format, include arrows, headers, sanitizers: what CI checks on top of the tests
	@tools/setup check
	@tools/check

format: ## put every source into the house's format
	@tools/setup check
	@git ls-files '*.c' '*.h' '*.cpp' | xargs clang-format -i

sanitize: ## all tests again under ASan and UBSan
	@tools/setup check
	@tools/run-sanitized address,undefined

reproducible: ## build twice in two places and compare what is installed, byte for byte
	@tools/setup build
	@tools/reproducible

fuzz: ## each fuzz target for FUZZ_SECONDS (default 60)
	@tools/setup check
	@tools/run-fuzz $(or $(FUZZ_SECONDS),60)

agree: build ## how well "two answers mean the same" is judged: precision and recall on labelled pairs
	@$(BUILD)/src/cli/tandem eval --agree tests/data/agree/pairs.jsonl

campaign: ## the long campaigns: kills, cuts, simulator (SEED=n replays, ONLY=cuts picks one)
	@tools/setup test
	@$(MAKE) --no-print-directory build
	@tools/run-campaign $(BUILD) $(SEED)

bench: ## the benchmark table, beside the peers
	@tools/setup bench
	@$(MAKE) --no-print-directory build
	@bench/run $(BUILD)

tour: build ## a scripted tour on one screen
	@tools/tour $(BUILD)

starter-model: ## train models/starter.gguf again (two cores, up to two hours)
	@tools/setup model
	@models/starter/make.sh

install: build ## install into PREFIX (default /usr/local)
	@meson configure $(BUILD) -Dprefix=$(PREFIX) >/dev/null
	@meson install -C $(BUILD)
	@cp $(BUILD)/meson-logs/install-log.txt $(BUILD)/installed.txt # the tests install, too

uninstall: ## remove what "make install" put in place
	@tools/uninstall $(BUILD)/installed.txt && rm $(BUILD)/installed.txt

clean: ## remove build folders (keeps .deps)
	rm -rf build build-* build.log
