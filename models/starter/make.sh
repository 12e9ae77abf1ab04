#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains models/starter.gguf again and prints what it scores; `make starter-model` calls it. Two phases of a fixed number of
# examples: about 40 minutes on one idle core. FIRST and SECOND change the numbers (FIRST=8000 SECOND=2000 for a trial).
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
say "training, first phase"
"$python" train.py --vocab "$work/vocab.json" --out "$work/first" --examples "${FIRST:-144000}"
say "training, second phase: more real utterances, fewer random names"
"$python" train.py --vocab "$work/vocab.json" --out "$work/second" --resume "$work/first" --examples "${SECOND:-80000}" \
  --lr 8e-4 --warmup 60 --mix 0.40,0.26,0.14,0.20 --oos-times 3 --seed 20261122
"$python" export.py --vocab "$work/vocab.json" --model "$work/second/model.pt" --run "$work/second/run.json" \
  --gguf-py "$deps/llama.cpp/gguf-py" --out "$work/starter-f16.gguf"
say "quantising"
"$work/quantise" "$work/starter-f16.gguf" "$work/starter.gguf"
for f in starter-f16.gguf starter.gguf; do
  say "$f"
  "$python" evaluate.py --gguf "$work/$f" --vocab "$work/vocab.json" --lib "$lib" --shim "$work/libllama-eval.so" \
    --say "set a timer for 10 minutes" "turn off the kitchen lights" "remind me to call the dentist tomorrow at nine" \
    "what is 18 % of 240" "add milk to my shopping list" "tell me about the history of the Roman Empire"
done
cp "$work/starter.gguf" ../starter.gguf
cp "$work/second/run.json" recipe.json
say "wrote models/starter.gguf and models/starter/recipe.json"
