#!/usr/bin/env python3
"""The race: who decodes the most tokens per second from the same weights? Packed models (bit masks of 50 and 70 %, 2:4; bf16, int8,
int4), our dense ones, and llama.cpp. All contenders of a model are in memory at once and take turns; medians are printed with the bytes
that a token reads and the share of the machine's read bandwidth that this makes. Beside each stands the perplexity of the small real model
(assets/default-model) in that format, pruned with SparseGPT where the format is sparse. PyTorch takes part where python3 has it; with the large model only where there are 30 GB of memory.

  bench/race.sh [--quick] [--work FOLDER] [--out FOLDER] [--rounds 5] [--threads 1,2] [--models small,large] [--avx2] [--markdown]

--avx2 runs it as on a processor that has no more than AVX2: .NET and libtorch are held to it, and llama.cpp to its build for it.

Models are made once in the work folder (about 14 GB with the large one); the full race needs about 14 GB of memory. Nothing else should
run. Writes race.json, race.html and roofline.svg (the largest model with the most threads) into --out (the work folder)."""
import argparse, datetime, glob, json, os, re, shutil, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LLAMA = os.path.join(ROOT, "artifacts", "llama-cpp")
AVX2 = {"DOTNET_EnableAVX512": "0", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # .NET, libtorch and its matrix products
PROGRAM = os.path.join(ROOT, "bench", "Race", "bin", "Release", "net10.0", "Race.dll")
MODELS = {  # config, new tokens, tokens of the prompt before them
    "small": ("llama-100m.json", 32, 8),
    "large": ("llama-1.1b.json", 24, 8),
}
SOURCES = {"50": ["--sparsity", "0.5"], "70": ["--sparsity", "0.7"], "2:4": ["--pattern", "2:4"]}
TYPES = {"bf16": "f16", "int8": "q8_0", "int4": "q4_0"}  # ours, and the type of llama.cpp that it competes with
PROMPT = ["dense f32 (libtorch)", "bitmask 50 % bf16", "2:4 int8", "bitmask 50 % int4"]
TARGETS = [("bitmask 50 % bf16", 1.3), ("2:4 int8", 1.2), ("bitmask 50 % int4", 1.1), ("bitmask 70 % int4", 1.4)]


def once(target, make):
    """Makes a file or folder under another name first, so that an interrupted run leaves no half of one."""
    if not os.path.exists(target):
        print(f"  making {os.path.relpath(target)}", file=sys.stderr)
        stem, ending = os.path.splitext(target)
        unfinished = stem + ".unfinished" + ending
        if os.path.isfile(unfinished):
            os.remove(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        os.rename(unfinished, target)
    return target


def espalier(*words):
    subprocess.run([os.path.join(ROOT, "espalier"), *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def contenders(model, work):
    """(name, side, rival, path) of each."""
    folder = os.path.join(work, model)
    os.makedirs(folder, exist_ok=True)

    def synthesize(to, words):
        espalier("synthesize", "--config", os.path.join(ROOT, "bench", MODELS[model][0]), "--out", to, *words)
        for name in ("tokenizer.json", "tokenizer_config.json"):  # llama.cpp runs no model without one; ids it lacks are padded
            shutil.copy(os.path.join(ROOT, "assets", "default-model", name), to)

    dense = {s: once(os.path.join(folder, f"dense-{s.replace(':', '-')}"), lambda to: synthesize(to, SOURCES[s])) for s in SOURCES}
    found = formats(folder, dense, dense["50"])
    if TORCH and (model == "small" or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > 30e9):  # a second dense copy of the large model is 4.4 GB
        found.append(("dense f32", "PyTorch", "f16", dense["50"]))
    return found


def formats(folder, sparse, dense):
    """(name, side, rival, path) of each form of a model: packed from its sparse versions by name, dense, and llama.cpp's."""
    found = []
    for type, rival in TYPES.items():
        for source in sparse:
            code = "2:4" if source == "2:4" and type != "bf16" else "bitmask"
            name = f"2:4 {type}" if code == "2:4" else f"bitmask of 2:4 {type}" if source == "2:4" else f"bitmask {source} % {type}"
            path = once(os.path.join(folder, f"packed-{source.replace(':', '-')}-{type}"), lambda to: espalier("pack", sparse[source], "--type", type, "--code", code, "--out", to))
            found.append((name, "packed", rival, path))
    found.append(("dense f32 (libtorch)", "dense", "f16", dense))
    for type in ("int8", "int4"):
        path = once(os.path.join(folder, f"packed-dense-{type}"), lambda to: espalier("pack", dense, "--type", type, "--code", "dense", "--out", to))
        found.append((f"dense {type}", "dense", TYPES[type], path))
    for type in TYPES.values():
        path = once(os.path.join(folder, f"llama-{type}.gguf"), lambda to: espalier("export", dense, "--type", type, "--out", to))
        found.append((type, "llama.cpp", None, path))
    return found


def quality(work):
    """The perplexity of the small real model in each format, by contender's name."""
    folder = os.path.join(work, "quality")
    os.makedirs(folder, exist_ok=True)
    model, text = os.path.join(ROOT, "assets", "default-model"), os.path.join(ROOT, "assets", "austen")
    windows = once(os.path.join(folder, "windows.json"), lambda to: subprocess.run(
        ["dotnet", PROGRAM, "windows", model, os.path.join(text, "heldout.jsonl"), "48", "128", to], check=True))
    pruned = {s: once(os.path.join(folder, f"pruned-{s.replace(':', '-')}"), lambda to: espalier(
        "prune", model, "--criterion", "sparsegpt", *SOURCES[s], "--calibration", os.path.join(text, "train.jsonl"), "--samples", "64", "--length", "128", "--out", to)) for s in SOURCES}
    found = {}
    for name, side, _, path in formats(folder, pruned, model):
        worker = Worker(side, path)
        found[name] = worker.ask("perplexity", windows)
        worker.close()
        print(f"  perplexity of {name}: {found[name]:.2f}", file=sys.stderr)
    found["dense f32"] = found["dense f32 (libtorch)"]  # PyTorch's: the same weights in the same type
    return found


def python_with_torch():
    """A Python that has PyTorch; None where there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
            return python
    return None


TORCH = python_with_torch()


def hold_to_avx2():
    """From here on every contender computes as on a processor with AVX2 and no more. llama.cpp takes the best of its builds in a folder: it gets one without the better ones."""
    global LLAMA
    os.environ.update(AVX2, RACE_AVX2="1")
    folder = LLAMA + "-avx2"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(LLAMA, folder, copy_function=os.link, symlinks=True)
    LLAMA = folder
    for path in glob.glob(os.path.join(folder, "node_modules", "@node-llama-cpp", "*", "bins", "*", "libggml-cpu-*.so")):
        if os.path.basename(path).split("-")[-1].removesuffix(".so") not in ("haswell", "sandybridge", "sse42", "x64"):
            os.remove(path)


class Worker:
    def __init__(self, side, path):
        command = {"llama.cpp": ["node", os.path.join(ROOT, "bench", "race_llama.mjs"), LLAMA, path], "PyTorch": [TORCH, os.path.join(ROOT, "bench", "race_torch.py"), path]}.get(
            side, ["dotnet", PROGRAM, "serve", path])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer("ready")

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return float(self.answer())

    def answer(self, expected=None):
        line = self.process.stdout.readline().strip()
        if not line or (expected and line != expected):
            sys.exit(f"error: {' '.join(self.process.args)} answered '{line}' and not {expected or 'a number'}; what it wrote above says why.")
        return line

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def turns(workers, rounds, warm_ups, *words):
    """Asks all the same in turns, after rounds that do not count. Lists of answers by name."""
    answers = {name: [] for name in workers}
    for round in range(-warm_ups, rounds):
        for name, worker in workers.items():
            value = worker.ask(*(words if name != "bandwidth" else ("bandwidth", words[1])))
            if round >= 0:
                answers[name].append(value)
    return answers


def race(model, chosen, perplexities, result):
    made, prompt = chosen.tokens or MODELS[model][1], MODELS[model][2]
    entries = contenders(model, chosen.work)
    bytes = {name: int(subprocess.run(["dotnet", PROGRAM, "bytes", path], check=True, capture_output=True, text=True).stdout) for name, _, _, path in entries}
    workers = {"bandwidth": Worker("none", "none")}
    workers.update((name, Worker(side, path)) for name, side, _, path in entries)
    try:
        for threads in chosen.threads:
            answers = turns(workers, chosen.rounds, 1, "decode", threads, made, prompt)
            medians = {name: statistics.median(values) for name, values in answers.items()}
            result["reads"].setdefault(str(threads), []).extend(answers["bandwidth"])
            for name, side, rival, _ in entries:
                result["rows"].append({
                    "model": model, "contender": name, "side": side, "threads": threads, "tokensPerSecond": medians[name],
                    "least": min(answers[name]), "most": max(answers[name]), "bytesPerToken": bytes[name],
                    "rival": rival, "perplexity": perplexities.get(name), "speedUp": medians[name] / medians[rival] if rival else None})
        if not chosen.no_prompts:
            threads, tokens = max(chosen.threads), 512
            answers = turns({name: workers[name] for name in PROMPT}, chosen.rounds, 0, "prompt", threads, tokens)
            dense = statistics.median(answers[PROMPT[0]])
            for name in PROMPT:
                median = statistics.median(answers[name])
                result["prompts"].append({"model": model, "contender": name, "threads": threads, "tokens": tokens, "tokensPerSecond": median, "againstDense": median / dense})
    finally:
        for worker in workers.values():
            worker.close()


def targets(result):
    rows = {r["contender"]: r for r in result["rows"] if r["model"] == "large" and r["threads"] == 2}
    if not rows:
        return []
    found = [{"name": f"{name} against llama.cpp {rows[name]['rival']}", "goal": goal, "reached": rows[name]["speedUp"]} for name, goal in TARGETS]
    best = max((r for r in rows.values() if r["side"] == "packed"), key=lambda r: r["bandwidthShare"])
    found.append({"name": f"share of the read bandwidth, the best packed ({best['contender']})", "goal": 0.7, "reached": best["bandwidthShare"]})
    prompts = [p for p in result["prompts"] if p["model"] == "large" and p["contender"] != PROMPT[0]]
    if prompts:
        worst = min(prompts, key=lambda p: p["againstDense"])
        found.append({"name": f"prompt of {worst['tokens']} tokens against dense libtorch, the slowest packed ({worst['contender']})", "goal": 0.9, "reached": worst["againstDense"]})
    return found


def show(result):
    for threads, speed in result["bandwidth"].items():
        print(f"read bandwidth, {threads} thread(s): {speed:.1f} GB/s")
    for model, threads in dict.fromkeys((r["model"], r["threads"]) for r in result["rows"]):
        print(f"\n{model}, {threads} thread(s)\n{'contender':24} {'':10} {'tokens/s':>9} {'slowest':>8} {'fastest':>8} {'MB/token':>9} {'bandwidth':>9} {'perplexity':>10}  against")
        for r in result["rows"]:
            if (r["model"], r["threads"]) == (model, threads):
                against = f"{r['speedUp']:.2f} x {r['rival']}" if r["rival"] else ""
                print(f"{r['contender']:24} {r['side']:10} {r['tokensPerSecond']:9.2f} {r['least']:8.2f} {r['most']:8.2f} {r['bytesPerToken'] / 1e6:9.1f} {r['bandwidthShare']:9.0%} {r['perplexity']:10.2f}  {against}")
    for p in result["prompts"]:
        print(f"{'prompt' if p is not result['prompts'][0] else chr(10) + 'prompt'} of {p['tokens']} tokens, {p['model']}, {p['threads']} thread(s): {p['contender']:24} {p['tokensPerSecond']:8.1f} tokens/s, {p['againstDense']:.2f} x dense")
    for t in result["targets"]:
        print(f"{'met   ' if t['reached'] >= t['goal'] else 'missed'} {t['name']}: {t['reached']:.2f} (at least {t['goal']})")


def markdown(result):
    """The tables of docs/benchmarks.md."""
    for model in dict.fromkeys(r["model"] for r in result["rows"]):
        threads = sorted({r["threads"] for r in result["rows"] if r["model"] == model})
        print(f"\n{model}\n\n| contender | MB/token |" + "".join(f" tokens/s, {n} thread{'s' * (n > 1)} (slowest to fastest) | against llama.cpp |" for n in threads) + f" share of the bandwidth, {threads[-1]} threads |")
        print("|---|---:|" + "---:|---:|" * len(threads) + "---:|")
        by = {(r["contender"], r["threads"]): r for r in result["rows"] if r["model"] == model}
        for name in dict.fromkeys(r["contender"] for r in result["rows"] if r["model"] == model):
            rows = [by[name, n] for n in threads]
            side = f"{rows[0]['side']} {name}" if rows[0]["side"] in ("llama.cpp", "PyTorch") else name
            cells = [f"{r['tokensPerSecond']:.1f} ({r['least']:.1f} to {r['most']:.1f}) | " + (f"{r['speedUp']:.2f} × {r['rival']}" if r["rival"] else "") for r in rows]
            print(f"| {side} | {rows[0]['bytesPerToken'] / 1e6:.0f} | " + " | ".join(cells) + f" | {rows[-1]['bandwidthShare']:.0%} |")
    print("\n| target, 2 threads | asked | reached | |\n|---|---:|---:|---|")
    for t in result["targets"]:
        print(f"| {t['name']} | {t['goal']} | {t['reached']:.2f} | {'met' if t['reached'] >= t['goal'] else 'missed'} |")
    for p in result["prompts"]:
        print(f"prompt of {p['tokens']} tokens, {p['model']}: {p['contender']} {p['tokensPerSecond']:.1f} tokens/s, {p['againstDense']:.2f} of dense")


def roofline(page, picture):
    """The last plot of the page (the largest model, most threads) by itself, for docs/benchmarks.md."""
    with open(page) as file:
        html = file.read()
    style = "\n".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    plot = re.findall(r'<svg class="wide".*?</svg>', html, re.S)[-1]
    head, body = plot.split(">", 1)
    with open(picture, "w") as file:
        file.write(f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style} svg {{ background: var(--sheet); font: 16px system-ui, \"DejaVu Sans\", sans-serif }}</style>{body}\n')


def versions():
    with open(os.path.join(LLAMA, "version")) as file:
        llama = file.read().strip()
    dotnet = subprocess.run(["dotnet", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    torch = subprocess.run([TORCH, "-c", "import torch; print(torch.__version__)"], check=True, capture_output=True, text=True).stdout.strip() if TORCH else None
    kernels = subprocess.run(["dotnet", PROGRAM, "kernels"], check=True, capture_output=True, text=True).stdout.strip()
    return f".NET SDK {dotnet} with {kernels} kernels, llama.cpp of node-llama-cpp {llama}, {f'PyTorch {torch}, ' if torch else ''}{datetime.date.today()}"


def machine():
    with open("/proc/cpuinfo") as file:
        name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} processors"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="the small model, three rounds: to try it out")
    options.add_argument("--work", default=os.path.join(ROOT, "artifacts", "race"))
    options.add_argument("--out")
    options.add_argument("--rounds", type=int)
    options.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1, 2])
    options.add_argument("--models", type=lambda text: text.split(","), default=None)
    options.add_argument("--tokens", type=int, help="new tokens per turn (small 32, large 24)")
    options.add_argument("--avx2", action="store_true", help="as on a processor with no more than AVX2")
    options.add_argument("--markdown", action="store_true", help="print the tables for docs/benchmarks.md as well")
    options.add_argument("--no-prompts", action="store_true", help="decoding only")
    chosen = options.parse_args()
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 5)
    chosen.models = chosen.models or (["small"] if chosen.quick else ["small", "large"])
    if unknown := [m for m in chosen.models if m not in MODELS]:
        options.error(f"there is no model '{unknown[0]}'; there are {', '.join(MODELS)}.")
    began = time.time()
    if chosen.avx2:
        hold_to_avx2()
    result = {"machine": machine() + (", held to AVX2" if chosen.avx2 else ""), "versions": versions(), "quick": chosen.quick, "rounds": chosen.rounds, "reads": {}, "rows": [], "prompts": []}
    for model in chosen.models:
        contenders(model, chosen.work)  # all are made before the first is timed
    print(f"  models are ready after {time.time() - began:.0f} s", file=sys.stderr)
    perplexities = quality(chosen.work)
    for model in chosen.models:
        race(model, chosen, perplexities, result)
        print(f"  {model} is done after {time.time() - began:.0f} s", file=sys.stderr)
    result["bandwidth"] = {threads: statistics.median(reads) for threads, reads in result.pop("reads").items()}
    for row in result["rows"]:
        row["bandwidthShare"] = row["bytesPerToken"] * row["tokensPerSecond"] / (result["bandwidth"][str(row["threads"])] * 1e9)
    result["targets"] = targets(result)
    out = chosen.out or chosen.work
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "race.json"), "w") as file:
        json.dump(result, file, indent=2)
    subprocess.run(["dotnet", PROGRAM, "report", os.path.join(out, "race.json"), os.path.join(out, "race.html")], check=True)
    roofline(os.path.join(out, "race.html"), os.path.join(out, "roofline.svg"))
    show(result)
    if chosen.markdown:
        markdown(result)


if __name__ == "__main__":
    main()
