#!/usr/bin/env bash
# Time and peak resident memory of pruning a bfloat16 Llama of 1.1 billion (random) parameters from disk to disk, with
# 16 calibration sequences of 128 tokens. Writes one line per plan; needs about 7 GB of disk.
#   bench/memory.sh [FOLDER] [PLAN ...]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
folder="${1:-$(mktemp -d)}"
shift || true
[ $# -gt 0 ] || set -- magnitude wanda sparsegpt dsnot gblm flap minitron
if [ ! -f "$folder/model/model.safetensors" ]; then
    "$root/espalier" synthesize --config "$root/bench/llama-1.1b.json" --out "$folder/model" --quiet
    cp "$root"/assets/default-model/tokenizer*.json "$folder/model/"
fi
for plan in "$@"; do
    case "$plan" in
        dsnot) words=(--criterion wanda --repair dsnot --sparsity 0.5) ;;
        flap) words=(--criterion flap --pattern structured --repair flap --sparsity 0.5) ;;
        minitron) words=(--criterion minitron --pattern structured --hidden 1536 --neurons 4096 --layers 20) ;;
        *) words=(--criterion "$plan" --sparsity 0.5) ;;
    esac
    rm -rf "$folder/out"
    "$root/espalier" prune "$folder/model" "${words[@]}" --calibration "$root/assets/austen/train.jsonl" \
        --samples 16 --length 128 --out "$folder/out" --quiet --json > "$folder/$plan.jsonl"
    tail -n 1 "$folder/$plan.jsonl" | sed -nE 's/.*"peakMemory":([0-9]+).*"before":([0-9]+).*/\1 \2/p' | awk -v c="$plan" \
        '{ printf "%-10s peak resident memory %4.0f MB of a checkpoint of %4.0f MB (%.1f %%)\n", c, $1/1e6, $2/1e6, 100*$1/$2 }'
    tail -n 1 "$folder/$plan.jsonl" | grep -oE '"seconds":\{[^}]*\}' | head -n 1
done
