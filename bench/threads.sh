#!/usr/bin/env bash
# Which files of the default model differ between numbers of threads: every command runs with --threads 1 and 2, twice each, and with --threads 1 where the
# environment asks for 2. Prints a line per command and file of weights. Fails where the same number of threads gave other bytes.
#   bench/threads.sh [FOLDER]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
folder="${1:-$(mktemp -d)}"
tool="${ESPALIER_TOOL:-$root/src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll}"
[ -f "$tool" ] || "$root/espalier" --version >/dev/null
model="$root/assets/default-model" text="$root/assets/austen/heldout.jsonl"
calibration=(--calibration "$text" --samples 16 --length 64)
training=(--data "$text" --steps 12 --batch 4 --length 64)
words() {
    case "$1" in
        magnitude) echo prune "$model" --criterion magnitude --sparsity 0.5 ;;
        wanda) echo prune "$model" --criterion wanda --sparsity 0.5 "${calibration[@]}" ;;
        sparsegpt) echo prune "$model" --criterion sparsegpt --repair sparsegpt --sparsity 0.5 "${calibration[@]}" ;;
        flap) echo prune "$model" --criterion flap --repair flap --pattern structured --sparsity 0.2 "${calibration[@]}" ;;
        perp) echo prune "$model" --criterion wanda --sparsity 0.5 "${calibration[@]}" --retrain perp --steps 12 --batch 4 --train-length 64 ;;
        train) echo train --config "$model" "${training[@]}" ;;
        adapt) echo adapt "$model" --rank 4 "${training[@]}" ;;
        pack) echo pack "$folder/magnitude-1a" --type int4 ;;
    esac
}
export ESPALIER_RUNS=none
status=0
for name in magnitude wanda sparsegpt flap perp train adapt pack; do
    for way in "1a 1 1" "1b 1 1" "1c 1 2" "2a 2 2" "2b 2 2"; do
        read -r mark threads environment <<<"$way"
        # shellcheck disable=SC2046
        OMP_NUM_THREADS="$environment" dotnet "$tool" $(words "$name") --threads "$threads" --out "$folder/$name-$mark" --quiet >/dev/null
    done
    for file in "$folder/$name-1a"/*.safetensors; do
        file="$(basename "$file")"
        same() { cmp -s "$folder/$name-$1/$file" "$folder/$name-$2/$file" && echo same || echo other; }
        again="$(same 1a 1b)" environment="$(same 1a 1c)" twice="$(same 2a 2b)"
        echo "$name $file: 1 and 1 $again, 1 and 1 with OMP_NUM_THREADS=2 $environment, 2 and 2 $twice, 1 and 2 $(same 1a 2a)"
        [ "$again $environment $twice" = "same same same" ] || status=1
    done
done
exit "$status"
