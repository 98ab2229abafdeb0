#!/usr/bin/env bash
# Installs Chromium where it is missing: the tests of the studio's pages drive it. Debian and Ubuntu; elsewhere put it at /usr/bin/chromium.
set -euo pipefail
if [ -x /usr/bin/chromium ]; then
    echo "chromium is there: $(/usr/bin/chromium --version 2>/dev/null || true)"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: install Chromium with this system's package manager, so that /usr/bin/chromium starts it." >&2
    exit 2
fi
sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
$sudo apt-get update
$sudo apt-get install -y --no-install-recommends chromium fonts-dejavu-core
