#!/usr/bin/env bash
# Our Wanda, SparseGPT and DSnoT against plain PyTorch, taking turns in one run; see side_by_side.py.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
python="${PYTHON:-/usr/bin/python3}"
"$python" -c 'import torch' 2>/dev/null || { echo "error: $python has no PyTorch; on Debian: apt install python3-torch libopenblas0-pthread (or name another with PYTHON=...)" >&2; exit 2; }
dotnet build "$root/bench/SideBySide" -c Release -v q -nologo >&2
exec "$python" "$root/bench/side_by_side.py" --program "$root/bench/SideBySide/bin/Release/net10.0/SideBySide.dll" "$@"
