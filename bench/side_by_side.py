#!/usr/bin/env python3
"""Times Wanda, SparseGPT and DSnoT against plain PyTorch code of the same equations: same layer, same inputs, same threads,
one run, the two taking turns. Prints medians, their ratio (ours / PyTorch) and how far the results agree.

  bench/side_by_side.sh [--sizes 2048,4096] [--rounds 5] [--threads 2] [--methods wanda,sparsegpt,dsnot] [--json FILE]

Needs PyTorch with a fast BLAS; on Debian: apt install python3-torch libopenblas0-pthread."""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

import torch


def wanda_scores(W, X):
    s = X.pow(2).sum(1).mean(0)
    return W.abs() * s.sqrt()


def smallest(score, share):
    order = torch.sort(score, dim=1, stable=True).indices
    prune = torch.zeros_like(score, dtype=torch.bool)
    prune.scatter_(1, order[:, : int(score.shape[1] * share)], True)
    return prune


def wanda(W, X):
    W = W.clone()
    W[smallest(wanda_scores(W, X), 0.5)] = 0
    return W


def sparsegpt(W, X, blocksize=128, percdamp=0.01, sparsity=0.5):
    W = W.clone()
    rows = X.reshape(-1, X.shape[-1])
    H = rows.t().matmul(rows) * (2.0 / X.shape[0])
    dead = torch.diagonal(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    H.diagonal().add_(percdamp * torch.diagonal(H).mean())
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    columns = W.shape[1]
    for start in range(0, columns, blocksize):
        end = min(start + blocksize, columns)
        block, factor = W[:, start:end].clone(), U[start:end, start:end]
        done, error = torch.zeros_like(block), torch.zeros_like(block)
        score = block.pow(2) / torch.diagonal(factor).reshape(1, -1).pow(2)
        threshold = torch.sort(score.flatten()).values[int(score.numel() * sparsity)]
        prune = score <= threshold
        for i in range(end - start):
            w, d = block[:, i], factor[i, i]
            q = w.clone()
            q[prune[:, i]] = 0
            done[:, i] = q
            e = (w - q) / d
            block[:, i:] -= e.unsqueeze(1).matmul(factor[i, i:].unsqueeze(0))
            error[:, i] = e
        W[:, start:end] = done
        W[:, end:] -= error.matmul(U[start:end, end:])
    return W


def dsnot(W, X, max_cycle=50, threshold=0.1, sparsity=0.5):
    mean = X.mean((0, 1))
    total = X.sum(1).mean(0)
    variance = (X - X.mean(1, keepdim=True)).pow(2).mean((0, 1)).clamp_min(1e-12)
    metric = wanda_scores(W, X)
    rows, columns = W.shape
    prune = smallest(metric, sparsity)
    D = W * total
    error = (D * prune).sum(1)
    grow = torch.sort((D / variance) * prune, dim=1, stable=True).indices
    kept = columns - int(columns * sparsity)
    order = torch.sort(metric.masked_fill(prune, float("inf")), dim=1, stable=True).indices[:, :kept]
    d = D.gather(1, order)
    # Negative contributions first in this order, then the positive ones in reverse.
    position = torch.arange(kept).expand(rows, kept)
    key = torch.where(d < 0, position, 2 * kept - position)
    give = order.gather(1, torch.sort(key, dim=1).indices)
    left_g, right_g = torch.zeros(rows, dtype=torch.long), torch.full((rows,), columns - 1)
    left_p, right_p = torch.zeros(rows, dtype=torch.long), torch.full((rows,), kept - 1)
    active = torch.ones(rows, dtype=torch.bool)
    for _ in range(max_cycle):
        more = error > 0
        g = grow.gather(1, torch.where(more, right_g, left_g).unsqueeze(1))
        right_g, left_g = right_g - more.long(), left_g + (~more).long()
        less = error < 0
        p = give.gather(1, torch.where(less, right_p, left_p).unsqueeze(1))
        right_p, left_p = right_p - less.long(), left_p + (~less).long()
        active &= error.abs() > threshold
        if not active.any():
            break
        prune.scatter_(1, p, (prune.gather(1, p).squeeze(1) | active).unsqueeze(1))
        prune.scatter_(1, g, (prune.gather(1, g).squeeze(1) & ~active).unsqueeze(1))
        error = error + torch.where(active, (D.gather(1, p) - D.gather(1, g)).squeeze(1), torch.zeros(()))
    return W.masked_fill(prune, 0)


def output_error(W, V, X):
    rows = X.reshape(-1, X.shape[-1])
    return ((rows @ (W - V).t()).pow(2).sum() / (rows @ W.t()).pow(2).sum()).item()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="2048,4096")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--methods", default="wanda,sparsegpt,dsnot")
    options.add_argument("--json")
    options.add_argument("--program", required=True, help="the compiled SideBySide.dll")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_grad_enabled(False)
    found, sequences, tokens = [], 16, 128
    for size in map(int, chosen.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(size)
            # Correlated inputs with a few large ones and means that are not zero, as layers of language models see.
            common = torch.randn(sequences * tokens, 64) @ torch.randn(64, size) * 0.1
            X = (common + torch.randn(sequences * tokens, size) + 0.2 * torch.randn(size)).reshape(sequences, tokens, size)
            X[:, :, torch.randperm(size)[: size // 50]] *= 8
            W = torch.randn(size, size) * 0.02
            W.numpy().tofile(os.path.join(folder, "weight.f32"))
            X.numpy().tofile(os.path.join(folder, "inputs.f32"))
            ours = subprocess.Popen(["dotnet", chosen.program, folder, str(size), str(size), str(sequences), str(tokens), str(chosen.threads)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

            def ask(words):
                ours.stdin.write(words + "\n")
                ours.stdin.flush()
                return ours.stdout.readline().strip()

            ready = ours.stdout.readline().split()
            assert ready[0] == "ready" and int(ready[1]) == torch.get_num_threads(), f"threads differ: {ready} and {torch.get_num_threads()}"
            for method in chosen.methods.split(","):
                times = {"ours": [], "pytorch": []}
                for round in range(chosen.rounds + 1):
                    begin = time.perf_counter()
                    theirs = globals()[method](W, X)
                    seconds = time.perf_counter() - begin
                    mine = float(ask(method))
                    if round > 0:  # the first warms both up
                        times["pytorch"].append(seconds)
                        times["ours"].append(mine)
                ask("save result.f32")
                result = torch.from_file(os.path.join(folder, "result.f32"), size=size * size).reshape(size, size)
                row = {
                    "method": method, "size": size, "rows": sequences * tokens, "threads": chosen.threads,
                    "ours": statistics.median(times["ours"]), "pytorch": statistics.median(times["pytorch"]),
                    "ratio": statistics.median(times["ours"]) / statistics.median(times["pytorch"]),
                    "same zeros": ((result == 0) == (theirs == 0)).float().mean().item(),
                    "output error, ours": output_error(W, result, X), "output error, pytorch": output_error(W, theirs, X), "all": times,
                }
                found.append(row)
                print(f"{method:10} {size} x {size}: ours {row['ours']:.3f} s, PyTorch {row['pytorch']:.3f} s, ratio {row['ratio']:.2f}; "
                      f"{100 * row['same zeros']:.2f} % of the mask agrees, output error {row['output error, ours']:.4f} and {row['output error, pytorch']:.4f}", flush=True)
            ours.stdin.close()
            ours.wait()
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump({"pytorch": torch.__version__, "results": found}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
