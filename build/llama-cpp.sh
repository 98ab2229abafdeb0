#!/usr/bin/env bash
# Puts node-llama-cpp (llama.cpp, prebuilt) into artifacts/llama-cpp: the independent reader that tests open exported files with.
# Does nothing when the version named here is there.
set -euo pipefail
version=3.22.1
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
target="$root/artifacts/llama-cpp"
if [ "$(cat "$target/version" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
command -v npm >/dev/null || { echo "error: npm was not found; install Node.js 20 or later." >&2; exit 1; }
system="$(uname -s | sed 's/Linux/linux/;s/Darwin/mac/')-$(uname -m | sed 's/x86_64/x64/;s/aarch64/arm64/')"
[ "$system" = mac-arm64 ] && system=mac-arm64-metal
rm -rf "$target"
mkdir -p "$target"
# Optional packages are builds for every other system and for graphics cards (600 MB); the one needed is named.
npm install --prefix "$target" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
    "node-llama-cpp@$version" "@node-llama-cpp/$system@$version" >/dev/null
echo "$version" > "$target/version"
