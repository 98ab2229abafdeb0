#!/usr/bin/env python3
"""Kills espalier (SIGKILL) at random moments and lets it go on, on the default model; needs only Python's standard library.

    bench/kill.py [--kills 50] [--only prune,retrain,train,pack,export,download] [--tool PATH/Espalier.Cli.dll] [--seed 0]

Every operation first runs undisturbed. Then it is started again and again with the same words in one folder and killed after a random
time, until it ends by itself; that counts one finished chain, and the next begins in an empty folder, until there were enough kills. After
every kill each file that has its final name must be, byte for byte, the one of the undisturbed run; so must all files of a finished chain.
All runs of an operation are recorded in one run store. At the end SQLite must find it whole, and `espalier runs list` must call every run that was
killed interrupted (it may be missing where it was killed before it was recorded) and every other what its exit code says.
Prints one line per operation, exits with 1 where a byte or a record differed.
"""
import argparse, hashlib, http.server, json, os, pathlib, random, shutil, signal, socketserver, sqlite3, subprocess, sys, tempfile, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "assets/default-model"
TEXT = ROOT / "assets/austen/heldout.jsonl"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECORDED = ("prune", "train")  # the commands among these that keep a record


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hub(folder):
    """A hub of one model, whose answers take their time."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, body):
            files = {f.name: f for f in folder.iterdir() if f.suffix in (".json", ".safetensors")}
            if self.path.startswith("/api/"):
                return self.send(200, json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}).encode(), body, {})
            name = self.path.split("/")[-1]
            if name not in files:
                return self.send(404, b"", body, {})
            content = files[name].read_bytes()
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            headers = {"ETag": '"%s"' % hashlib.sha256(content).hexdigest(), "X-Repo-Commit": COMMIT}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206 if start else 200, content[start:], body, headers)

        def send(self, status, content, body, headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                for at in range(0, len(content) if body else 0, 1 << 18):
                    self.wfile.write(content[at:at + (1 << 18)])
                    time.sleep(0.05)
            except OSError:
                self.close_connection = True

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def operations(pruned):
    short = ["--calibration", str(TEXT), "--samples", "16", "--length", "64"]
    return {
        "prune": (["prune", str(MODEL), "--criterion", "sparsegpt", "--sparsity", "0.5", *short, "--out", "{out}"], "", {}),
        "retrain": (["prune", str(MODEL), "--criterion", "wanda", "--sparsity", "0.5", *short, "--retrain", "perp", "--steps", "12", "--batch", "4", "--train-length", "64", "--out", "{out}"], "", {}),
        "train": (["train", "--config", str(MODEL), "--data", str(TEXT), "--steps", "16", "--batch", "2", "--length", "64", "--save-every", "2", "--out", "{out}"], "--resume", {}),
        "pack": (["pack", str(pruned), "--type", "bf16", "--out", "{out}"], "", {}),
        "export": (["export", str(pruned), "--type", "f16", "--out", "{out}/model.gguf"], "", {}),
        "download": (["inspect", "org/name"], "", {"HF_ENDPOINT": hub(MODEL), "HF_HUB_CACHE": "{out}", "HF_TOKEN": ""}),
    }


def start(tool, operation, out, resume, store, title):
    words, flag, environment = operation
    out.mkdir(parents=True, exist_ok=True)
    words = [w.replace("{out}", str(out)) for w in words] + ([flag] if flag and resume else []) + (["--title", title] if words[0] in RECORDED else [])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ESPALIER_RUNS": str(store), **{k: v.replace("{out}", str(out)) for k, v in environment.items()}}
    return subprocess.Popen(["dotnet", tool, *words, "--quiet", "--threads", "1"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def named(out):
    """Files with final names; reports hold times, and what begins with a dot or ends in .incomplete is on its way."""
    found = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        if relative.parts[0] == "training-state":
            continue  # how far training was; what it leads to is compared
        if path.is_file() and not any(p.startswith(".") for p in relative.parts) and not path.name.endswith(".incomplete") and path.suffix in (".safetensors", ".gguf") or \
                path.is_file() and path.name == "config.json" and not any(p.startswith(".") for p in relative.parts):
            found[str(relative)] = digest(path)
        elif path.is_file() and relative.parts[0].startswith("models--") and "blobs" in relative.parts and not path.name.endswith("incomplete"):
            found[str(relative)] = digest(path)
    return found


def check_store(tool, store, ends):
    """What is wrong with the records; ends: the states that each run may be called, by its title (None: it may be missing)."""
    with sqlite3.connect(store / "runs.db") as database:
        wrong = [line for pragma in ("integrity_check", "foreign_key_check") for (line, *_) in database.execute(f"PRAGMA {pragma}") if line != "ok"]
    listed = subprocess.run(["dotnet", tool, "runs", "list", "--take", "100000", "--json"], env={**os.environ, "ESPALIER_RUNS": str(store)}, check=True, stdout=subprocess.PIPE)
    states, errors = {}, {}
    for run in json.loads(listed.stdout)["value"]["runs"]:
        if run["title"] in states:
            wrong.append(f"{run['title']} is there twice")
        states[run["title"]] = run["state"]
        errors[run["title"]] = run.get("error")
    for title, allowed in ends.items():
        state = states.pop(title, None)
        if state not in allowed:
            wrong.append(f"{title} is called {state} instead of {allowed[0]} ({errors.get(title)})")
    return wrong + [f"{title} was never begun" for title in states]


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--only", default="prune,retrain,train,pack,export,download")
    words.add_argument("--tool", default=str(ROOT / "src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll"))
    words.add_argument("--seed", type=int, default=0)
    asked = words.parse_args()
    rng = random.Random(asked.seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        pruned = work / "pruned"
        if any(n in asked.only for n in ("pack", "export")):
            subprocess.run(["dotnet", asked.tool, "prune", str(MODEL), "--criterion", "magnitude", "--sparsity", "0.5", "--out", str(pruned), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        for name, operation in operations(pruned).items():
            if name not in asked.only.split(","):
                continue
            whole, store, ends = work / name / "whole", work / name / "store", {}
            store.mkdir(parents=True)
            began = time.time()
            process = start(asked.tool, operation, whole, False, store, "whole")
            error = process.communicate()[1]
            length = time.time() - began
            if process.returncode != 0:
                print(f"{name}: the undisturbed run failed: {error.decode()}")
                wrong += 1
                continue
            expected = named(whole)
            ends["whole"] = ["finished"]
            kills = chains = different = refused = 0
            out = work / name / "killed"
            resume = False
            while kills < asked.kills or out.exists():
                title = f"run {len(ends)}"
                hopeless = resume and operation[1] == "--resume" and not (out / "training-state" / "state.safetensors").exists()
                process = start(asked.tool, operation, out, resume, store, title)
                # Once there were enough kills, the last chain may end.
                limit = rng.uniform(0.15, 1.0) * length if kills < asked.kills else 600
                try:
                    error = process.communicate(timeout=limit)[1].decode()
                    ends[title] = ["finished" if process.returncode == 0 else "failed"]
                    if process.returncode != 0 and resume:
                        resume = False  # killed before anything was saved
                        refused += 1
                        continue
                    if process.returncode != 0:
                        print(f"{name}: went on with code {process.returncode}: {error}")
                        different += 1
                    elif named(out) != expected:
                        print(f"{name}: other bytes at the end: {named(out)} instead of {expected}")
                        different += 1
                    chains += 1
                    shutil.rmtree(out)
                    resume = False
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    kills += 1
                    resume = True
                    files = named(out)
                    # A run whose files are all there, or that had nothing to go on with, may have been killed on its last way out.
                    ends[title] = ["interrupted", None] + (["finished"] if files == expected else ["failed"] if hopeless else [])
                    for path, found in files.items():
                        if expected.get(path) != found:
                            print(f"{name}: {path} has its final name and other bytes after a kill")
                            different += 1
            records = ""
            if operation[0][0] in RECORDED:
                faults = check_store(asked.tool, store, ends)
                records = f", {len(ends)} runs with {len(faults)} wrong records"
                wrong += len(faults)
                for fault in faults:
                    print(f"{name}: run store: {fault}")
            print(f"{name}: {kills} kills, {chains} finished chains, {different} differences{records} ({length:.1f} s undisturbed, {refused} restarts from nothing)", flush=True)
            wrong += different
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
