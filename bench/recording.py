#!/usr/bin/env python3
"""What recording costs: processor time and time of a short command with a run store and without one, in turns.

    bench/recording.py [--repeats 7] [--tool "dotnet src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll"]

The command measures one window of eight tokens of the shipped text on the shipped model. The store exists already: what is
measured is every run but the first. Prints medians; nothing is left behind."""
import argparse
import os
import resource
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def once(tool, store):
    words = ["eval", str(ROOT / "assets/default-model"), "--data", str(ROOT / "assets/austen/heldout.jsonl"), "--windows", "1", "--context", "8", "--quiet"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*tool, *words], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "ESPALIER_RUNS": store, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--tool", default=f"dotnet {ROOT / 'src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll'}")
    chosen = options.parse_args()
    tool = shlex.split(chosen.tool)
    with tempfile.TemporaryDirectory() as folder:
        stores = {"none": "none", "SQLite": f"{folder}/runs.db"}
        for store in stores.values():
            once(tool, store)
        taken = {name: [] for name in stores}
        for _ in range(chosen.repeats):
            for name, store in stores.items():
                taken[name].append(once(tool, store))
    for name, runs in taken.items():
        processor, wall = (statistics.median(r[i] for r in runs) for i in (0, 1))
        print(f"{name:8} {processor:6.2f} s processor time ({min(r[0] for r in runs):.2f} to {max(r[0] for r in runs):.2f}), {wall:6.2f} s")
    extra = [statistics.median(r[i] for r in taken["SQLite"]) - statistics.median(r[i] for r in taken["none"]) for i in (0, 1)]
    print(f"recording costs {extra[0]:.2f} s of processor time, {extra[1]:.2f} s")


if __name__ == "__main__":
    main()
