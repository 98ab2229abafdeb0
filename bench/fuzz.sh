#!/usr/bin/env bash
# Feeds changed files to every reader, guided by the branches they take: the library is instrumented with SharpFuzz (a .NET tool,
# fetched into the work folder) in a copy; files of new behaviour are kept. Prints one line per reader and fails on a fault.
#   bench/fuzz.sh [INPUTS PER READER [WORK FOLDER [READER,READER…]]]
# A million inputs in all: bench/fuzz.sh 50000
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
inputs="${1:-50000}" work="${2:-$(mktemp -d)}" only="${3:-}"
mkdir -p "$work"
[ -x "$work/tools/sharpfuzz" ] || dotnet tool install SharpFuzz.CommandLine --version 2.3.0 --tool-path "$work/tools" >/dev/null
[ -n "${ESPALIER_FUZZ_NO_BUILD:-}" ] || dotnet build "$root/tests/Espalier.Tests" -c Release -v quiet -nologo -clp:ErrorsOnly
rm -rf "$work/bin" && cp -r "$root/tests/Espalier.Tests/bin/Release/net10.0" "$work/bin"
for library in Espalier Parquet; do "$work/tools/sharpfuzz" "$work/bin/$library.dll" >/dev/null; done
common="$(find "$work/tools/.store" -path '*net10.0*' -name SharpFuzz.Common.dll | head -n 1)"
cp "$common" "$work/bin/"
export OMP_NUM_THREADS=1 DOTNET_GCHeapHardLimit=0x100000000 ESPALIER_FUZZ="$inputs" ESPALIER_FUZZ_ONLY="$only" ESPALIER_FUZZ_COVERAGE="$work/bin" \
    ESPALIER_FUZZ_LOG="$work/fuzz.log" ESPALIER_FUZZ_KEEP="$work/kept" ESPALIER_FUZZ_LAST="$work/last"
rm -f "$work/fuzz.log"
code=0
(ulimit -v 40000000; cd "$work/bin" && dotnet Espalier.Tests.dll --no-ansi --progress off --parallel none --filter-class '*FuzzTests*') >"$work/out.log" 2>&1 || code=$?
cut -c1-400 "$work/fuzz.log" || true
awk -F'[: ]+' '/ files, / { inputs += $2; faults += $(NF-1) } END { printf "%d inputs, %d faults\n", inputs, faults }' "$work/fuzz.log"
[ "$code" -eq 0 ] || echo "The run ended with code $code; $work/out.log says why, $work/last is the last file." >&2
exit "$code"
