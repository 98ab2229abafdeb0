#!/usr/bin/env bash
# The kernels for 64-bit ARM against plain code, on an emulator (Debian: apt-get install qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
command -v qemu-aarch64-static >/dev/null || { echo "error: qemu-aarch64-static was not found; install qemu-user-static, libc6-arm64-cross and libstdc++6-arm64-cross." >&2; exit 2; }
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
dotnet publish -c Release -r linux-arm64 --self-contained -v q -nologo -o "$out"
DOTNET_TieredCompilation=1 qemu-aarch64-static -L /usr/aarch64-linux-gnu "$out/PackedRoutes" check
