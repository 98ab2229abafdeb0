#!/usr/bin/env bash
# How long a soup of four copies takes in this process and with workers: every way in turn, ROUNDS times; prints a table of seconds (median, fastest to slowest).
# Fails where a training with as many threads gave other bytes. Images are noise with stripes, made here.
#   bench/sms_workers.sh [ROUNDS [STEPS [FOLDER]]]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
rounds="${1:-3}" steps="${2:-300}" folder="${3:-$(mktemp -d)}"
tool="${ESPALIER_TOOL:-$root/src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll}"
[ -f "$tool" ] || "$root/espalier" --version >/dev/null
export ESPALIER_RUNS=none
python3 - "$folder" <<'PY'
import random, struct, sys
random.seed(1)
count, side = 4096, 28
labels = bytes(i % 10 for i in range(count))
pixels = bytearray(random.randbytes(count * side * side))
for i in range(count):
    for row in range(labels[i], side, 10):
        start = (i * side + row) * side
        pixels[start:start + side] = bytes(200 + p // 5 for p in pixels[start:start + side])
open(f"{sys.argv[1]}/train-images-idx3-ubyte", "wb").write(struct.pack(">IIII", 2051, count, side, side) + pixels)
open(f"{sys.argv[1]}/train-labels-idx1-ubyte", "wb").write(struct.pack(">II", 2049, count) + labels)
PY
cat >"$folder/config.json" <<'JSON'
{"model_type": "torchvision_vgg", "layers": [16, "M", 32, "M"], "head": "flatten", "hidden": [128], "num_channels": 1, "image_size": 28}
JSON
common=(--data "$folder:train" --batch 64 --optimizer sgd --momentum 0.9 --lr 0.02 --quiet)
dotnet "$tool" train --config "$folder/config.json" --steps 20 --out "$folder/net" "${common[@]}" >/dev/null
cores="$(nproc)"
ways=("in process, 1 thread|--threads 1" "in process, $cores threads|--threads $cores" "1 worker, $cores threads|--workers 1 --threads $cores" "2 workers, 1 thread each|--workers 2 --threads 1")
for round in $(seq "$rounds"); do
    for i in "${!ways[@]}"; do
        rm -rf "$folder/soup-$i"
        begin="$(date +%s.%N)"
        # shellcheck disable=SC2086
        dotnet "$tool" train --config "$folder/net" --steps "$steps" --method sms --set models=4 --set sparsity=0.9 ${ways[$i]#*|} --out "$folder/soup-$i" "${common[@]}" >/dev/null
        echo "$(date +%s.%N) $begin" | awk '{ print $1 - $2 }' >>"$folder/seconds-$i"
    done
done
echo "| way | seconds, median (fastest to slowest of $rounds) |"
echo "|---|---:|"
for i in "${!ways[@]}"; do
    sort -n "$folder/seconds-$i" | awk -v way="${ways[$i]%%|*}" '{ s[NR] = $1 } END { printf "| %s | %.1f (%.1f to %.1f) |\n", way, (s[int((NR + 1) / 2)] + s[int(NR / 2) + 1]) / 2, s[1], s[NR] }'
done
cmp "$folder/soup-0/model.safetensors" "$folder/soup-3/model.safetensors"
cmp "$folder/soup-1/model.safetensors" "$folder/soup-2/model.safetensors"
