#!/usr/bin/env bash
# Packs the .NET tool, installs it aside, and runs it away from the checkout. Ends with "the tool works".
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
version="0.0.0-test.$(date +%s)"   # a version of its own: nothing from a cache can stand in for it

dotnet pack "$root/src/Espalier.Cli/Espalier.Cli.csproj" -c Release -v quiet -nologo -p:Version="$version" -o "$work/packages"
ls -l "$work/packages"
# A folder of its own for what NuGet unpacks, so that half a gigabyte does not stay in the user's.
printf '<configuration><packageSources><clear/><add key="local" value="%s"/></packageSources></configuration>\n' "$work/packages" > "$work/nuget.config"
NUGET_PACKAGES="$work/cache" dotnet tool install Espalier.Cli --version "$version" --configfile "$work/nuget.config" --tool-path "$work/tools" -v quiet

cd "$work"
tool="$work/tools/espalier"
"$tool" doctor | tee "$work/doctor.txt"
grep -q "$work/tools" "$work/doctor.txt" || { echo "error: the tool did not load the libraries of its own package." >&2; exit 1; }
"$tool" methods >"$work/methods.txt"
grep -q wanda "$work/methods.txt"
mkdir "$work/runs"
ESPALIER_RUNS="$work/runs" "$tool" runs list | grep -q "No runs"
"$tool" studio --help | grep -q -- --port
package="$(dirname "$(find "$work/tools/.store" -name bom.json)")"
for part in '"bomFormat": "CycloneDX"' '"purl": "pkg:nuget/TorchSharp@' '"purl": "pkg:nuget/libtorch-cpu-' "\"version\": \"$version\""; do
    grep -q -- "$part" "$package/bom.json" || { echo "error: the bill of materials lacks $part." >&2; exit 1; }
done
[ -f "$package/LICENSE" ] && [ -f "$package/licences/dependencies.md" ] && ls "$package"/licences/libtorch-cpu-*/LICENSE* >/dev/null
"$tool" verify --system magnitude
echo "the tool works"
