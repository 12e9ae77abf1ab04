#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains models/starter.gguf again and prints what it scores; `make starter-model` calls it. One run of a fixed number of
# examples: about 85 minutes on one core. EXAMPLES changes the number (EXAMPLES=8000 for a trial); RESUME=1 goes on from
# where an earlier run broke off.
# The public development sets are used where ROUTING_DATA (default ../shared/data/routing) has them; without them the
# model learns from the generator alone.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
deps=${TANDEM_DEPS:-$root/.deps}
work=$root/build/starter
python=/usr/bin/python3
export PYTHONHASHSEED=0 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$work"
say() { printf '» %s\n' "$*" >&2; }

"$python" -c 'import torch' 2>/dev/null || { echo "make.sh: needs python3-torch (tools/setup model installs it)" >&2; exit 1; }
lib=$deps/llama/lib
link=(-I"$deps/llama.cpp/include" -I"$deps/llama.cpp/ggml/include" -L"$lib" -Wl,-rpath,"$lib" -lm)
for l in libllama libggml libggml-base; do link+=("-l:$(basename "$(ls "$lib/$l".so "$lib/$l".v*.so 2>/dev/null | head -1)")"); done
cc -O2 -Wall -Wextra quantise.c "${link[@]}" -o "$work/quantise"
cc -O2 -Wall -Wextra -fPIC -shared quantise.c "${link[@]}" -o "$work/libllama-eval.so"

say "choosing the vocabulary"
"$python" mkvocab.py "$work/vocab.json"
say "training"
[ -n "${RESUME:-}" ] || rm -rf "$work/run"
# Large arrays come and go with every step: kept instead of given back, and in large pages, they cost a tenth less time.
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
  "$python" train.py --vocab "$work/vocab.json" --out "$work/run" ${EXAMPLES:+--examples "$EXAMPLES"}
"$python" export.py --vocab "$work/vocab.json" --model "$work/run/model.pt" --run "$work/run/run.json" \
  --gguf-py "$deps/llama.cpp/gguf-py" --out "$work/starter-f16.gguf"
say "quantising"
"$work/quantise" "$work/starter-f16.gguf" "$work/starter.gguf"
for f in starter-f16.gguf starter.gguf; do
  say "$f"
  "$python" evaluate.py --gguf "$work/$f" --vocab "$work/vocab.json" --lib "$lib" --shim "$work/libllama-eval.so" \
    --say "set a timer for 10 minutes" "turn off the kitchen lights" "remind me to call the dentist tomorrow at nine" \
    "what is 18 % of 240" "add milk to my shopping list" "tell me about the history of the Roman Empire"
done
if [ -n "${EXAMPLES:-}" ]; then
  say "a trial: $work/starter.gguf; models/starter.gguf stays as it is"
else
  cp "$work/starter.gguf" ../starter.gguf
  cp "$work/run/run.json" recipe.json
  say "wrote models/starter.gguf and models/starter/recipe.json"
fi
