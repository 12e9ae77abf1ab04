#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Local decoding against libllama driven directly: bench/local.sh [BUILD]. The model has a real one's shape (about 110
# million parameters, 8 bits) and random weights: speed does not depend on their values.
set -euo pipefail
build=${1:-build}
ninja -C "$build" host/tandem-host tests/support/make_gguf bench/bench-local >/dev/null
model=$build/bench/shape-110m.gguf
[ -e "$model" ] || "$build/tests/support/make_gguf" "$model" --layers 10 --embd 768 --heads 12 --kv-heads 4 --ff 2048 \
  --vocab 32000 --ctx 2048 --type q8_0
exec "$build/bench/bench-local" "$build/host/tandem-host" "$model" "${TOKENS:-48}" "${ROUNDS:-4}" "${THREADS:-1}"
