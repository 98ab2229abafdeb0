#!/usr/bin/env bash
# Writes docs/licences.md: every package that is restored, also those that others bring, with its version and licence (from the package itself, by CycloneDX).
# Fails where a licence is unknown or asks for more than to be named. Run it when a package or a version has changed; LicenceTests compares the page with the lock files.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$root"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
dotnet restore Espalier.slnx -v quiet
dotnet tool restore >/dev/null
dotnet tool run dotnet-CycloneDX -- Espalier.slnx --disable-package-restore --disable-hash-computation --output-format Json --output "$work" --filename all.json >/dev/null
python3 - "$work/all.json" <<'END' > "$work/licences.md"
import glob, json, pathlib, sys

# Packages that name no licence by its SPDX word: theirs was read.
READ = {"K4os.Compression.LZ4": "MIT", "Microsoft.ML.OnnxRuntime": "MIT", "Microsoft.ML.OnnxRuntime.Managed": "MIT"}
PERMISSIVE = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "PostgreSQL"}

licences = {}
for part in json.load(open(sys.argv[1]))["components"]:
    words = [l.get("expression") or l.get("license", {}).get("id") for l in part.get("licenses", [])]
    licences[part["name"], part["version"]] = " AND ".join(w for w in words if w) or READ.get(part["name"], "unknown")


def locked(pattern):
    found = {}
    for path in sorted(glob.glob(pattern)):
        for framework in json.loads(pathlib.Path(path).read_text())["dependencies"].values():
            for name, package in framework.items():
                if package["type"] != "Project":
                    found[name, package["resolved"]] = True
    return found


def table(packages):
    print("| package | version | licence |\n|---|---|---|")
    for name, version in sorted(packages, key=lambda p: (p[0].lower(), p[1])):
        licence = licences.get((name, version), "unknown")
        if licence not in PERMISSIVE:
            sys.exit(f"error: {name} {version} has the licence '{licence}'; read it, and let build/licences.sh know it.")
        print(f"| {name} | {version} | {licence} |")


ships = locked("src/*/packages.lock.json")
print("""# Licences of dependencies

Made by `build/licences.sh` from the `packages.lock.json` files and the packages themselves; why each direct one is here: [dependencies.md](dependencies.md).
Espalier itself is under Apache-2.0.

## In what ships
The packed tool carries the same as a bill of materials (`bom.json`, CycloneDX) and the texts of its native libraries' licences (`licences/`). libtorch's package declares MIT;
PyTorch in it is under BSD-3-Clause, and its notice names the libraries that are linked into it. On Windows and macOS libtorch-cpu-win-x64 and
libtorch-cpu-osx-arm64 of the same version take the place of libtorch-cpu-linux-x64.
""")
table(ships)
print("""
## In build, tests and measurements alone
""")
table([p for p in locked("*/*/packages.lock.json") if p not in ships])
END
mv "$work/licences.md" docs/licences.md
