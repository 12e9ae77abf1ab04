# SPDX-License-Identifier: Apache-2.0
# One command per job; each sets up what it needs first.
.PHONY: all build test clean
BUILD ?= build

all: build

build:
	@tools/setup build
	@[ -e $(BUILD)/build.ninja ] || meson setup $(BUILD) >/dev/null
	@ninja -C $(BUILD)

test:
	@tools/setup test
	@[ -e $(BUILD)/build.ninja ] || meson setup $(BUILD) >/dev/null
	@ninja -C $(BUILD)
	@meson test -C $(BUILD) --print-errorlogs

clean:
	rm -rf $(BUILD)
