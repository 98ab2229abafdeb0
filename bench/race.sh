#!/usr/bin/env bash
# Packed models, dense ones and llama.cpp, decoding in turns in one run; see race.py.
#   bench/race.sh [--quick] [--work FOLDER] [--rounds 5]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
command -v node >/dev/null || { echo "error: node was not found; install Node.js 20 or later (llama.cpp comes through npm)." >&2; exit 2; }
bash "$root/build/llama-cpp.sh"
"$root/espalier" --version >/dev/null
dotnet build "$root/bench/Race" -c Release -v q -nologo >&2
exec python3 "$root/bench/race.py" "$@"
