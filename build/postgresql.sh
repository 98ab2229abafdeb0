#!/usr/bin/env bash
# Makes sure that PostgreSQL's server programs are on this machine, for the tests of the run store, which start servers of
# their own in temporary folders. Installs Debian's package where they are missing; does nothing where they are there.
set -euo pipefail
found() { command -v initdb >/dev/null && command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
found && exit 0
command -v apt-get >/dev/null || { echo "error: PostgreSQL was not found, and there is no apt-get to install it with." >&2; exit 1; }
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
# No cluster for the system: the package would start a server that nobody asked for.
"${as_root[@]}" mkdir -p /etc/postgresql-common/createcluster.d
echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.d/no-main.conf >/dev/null
"${as_root[@]}" apt-get install -y -qq --no-install-recommends postgresql >/dev/null
found
