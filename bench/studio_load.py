#!/usr/bin/env python3
"""Many clients watch one live run of the studio for a minute: none may be dropped, memory must stay flat.

    bench/studio_load.py [--clients 200] [--seconds 60]

Starts a studio of its own (a free port, a folder of its own), lets it retrain the shipped model with very many small steps, opens
the event streams, and reads the studio's resident memory all the while. Ends with code 1 when a client was dropped, had no news,
or memory grew by more than a tenth between the first and the last quarter."""
import argparse, asyncio, json, os, pathlib, signal, subprocess, sys, tempfile, time, urllib.request

words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
words.add_argument("--clients", type=int, default=200)
words.add_argument("--seconds", type=int, default=60)
words.add_argument("--tool", default=str(pathlib.Path(__file__).resolve().parent.parent / "src/Espalier.Cli/bin/Release/net10.0/Espalier.Cli.dll"))
options = words.parse_args()


def call(address, path, body=None):
    request = urllib.request.Request(address + path, json.dumps(body).encode() if body is not None else None, {"Content-Type": "application/json"} if body is not None else {})
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def resident(process):
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


async def watch(port, run, until, result):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/v1/runs/{run}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
    try:
        while time.monotonic() < until:
            try:
                data = await asyncio.wait_for(reader.read(65536), max(0.01, until - time.monotonic()))
            except asyncio.TimeoutError:
                break
            if not data:
                result["dropped"] += 1
                return
            result["bytes"] += len(data)
            result["events"] += data.count(b"event: metrics")
            if b"event: metrics" in data:
                result["late"] = max(result["late"], 0)
                result["heard"].add(id(reader))
    except ConnectionError:
        result["dropped"] += 1
    finally:
        writer.close()


async def main(address, process, run):
    port, until = int(address.rstrip("/").rsplit(":", 1)[1]), time.monotonic() + options.seconds
    result = {"dropped": 0, "bytes": 0, "events": 0, "late": 0, "heard": set()}
    clients = [asyncio.create_task(watch(port, run, until, result)) for _ in range(options.clients)]
    memory = []
    while time.monotonic() < until:
        memory.append(resident(process))
        await asyncio.sleep(1)
    await asyncio.gather(*clients)
    quarter = max(len(memory) // 4, 1)
    first, last = sum(memory[:quarter]) / quarter, sum(memory[-quarter:]) / quarter
    heard = len(result["heard"])
    print(f"{options.clients} clients, {options.seconds} s: {result['dropped']} dropped, {heard} had news, {result['events']} messages with figures, {result['bytes'] / 1e6:.1f} MB sent")
    print(f"resident memory of the studio: {first:.0f} MB in the first quarter, {last:.0f} MB in the last, at most {max(memory):.0f} MB")
    good = result["dropped"] == 0 and heard == options.clients and last <= first * 1.1
    print("held" if good else "NOT held")
    return 0 if good else 1


with tempfile.TemporaryDirectory() as home:
    environment = dict(os.environ, ESPALIER_HOME=home, ESPALIER_RUNS=os.path.join(home, "runs.db"), OMP_NUM_THREADS="1")
    studio = subprocess.Popen(["dotnet", options.tool, "studio", "--port", "0", "--no-browser", "--json"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = json.loads(studio.stdout.readline())["value"]["address"].rstrip("/")
        model = next(m["key"] for m in call(address, "/api/v1/models") if m["place"] == "shipped")
        run = call(address, "/api/v1/runs", {"model": model, "calibration": "austen-train", "title": "load", "words": {
            "prune.sparsity": "0.5", "data.samples": "2", "retrain.method": "perp", "retrain.subset": "norms", "retrain.steps": "100000", "retrain.batch": "1", "retrain.length": "16"}})["id"]
        deadline = time.monotonic() + 120
        while not any(m["name"] == "loss" for m in call(address, f"/api/v1/runs/{run}")["metrics"]):
            if time.monotonic() > deadline:
                sys.exit("error: the run did not begin to train within two minutes.")
            time.sleep(1)
        code = asyncio.run(main(address, studio.pid, run))
        call(address, f"/api/v1/runs/{run}/stop", {})
        time.sleep(2)
    finally:
        studio.send_signal(signal.SIGTERM)
        studio.wait(30)
sys.exit(code)
