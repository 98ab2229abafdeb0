#!/usr/bin/env bash
# Makes the default model again: corpus, tokeniser, training. Takes about half an hour on one core.
#   build/default-model/make.sh OUT      OUT gets train.jsonl, heldout.jsonl, tokenizer/ and model/
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
espalier="$here/../../espalier"
out="${1:?usage: build/default-model/make.sh OUT}"
if ! command -v Rscript >/dev/null || ! Rscript -e 'quit(status = !requireNamespace("janeaustenr", quietly = TRUE))' >/dev/null; then
    echo "error: the corpus comes from the R package janeaustenr; on Debian: apt-get install r-cran-janeaustenr" >&2
    exit 2
fi
mkdir -p "$out"
Rscript "$here/corpus.R" "$out"
"$espalier" tokenizer train --data "$out/train.jsonl" --vocab 2048 --out "$out/tokenizer"
# One thread, as the shipped model was trained; 1,600 steps of a cosine schedule laid out for 2,000.
"$espalier" --threads 1 train --config "$here/config.json" --tokenizer "$out/tokenizer" --data "$out/train.jsonl" \
    --steps 2000 --stop-after 1600 --batch 16 --length 256 --lr 2e-3 --schedule cosine --warmup 100 --weight-decay 0.1 --beta2 0.95 --clip 1 \
    --save-every 200 --seed 0 --dtype bfloat16 --out "$out/model"
"$espalier" eval "$out/model" --data "$out/heldout.jsonl"
