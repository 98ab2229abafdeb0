"""PyTorch's side of race.py: a Llama as plain tensor operations in float32 with a cache of keys and values, no graph of gradients.

    race_torch.py FOLDER     answers "decode THREADS NEW PROMPT" and "prompt THREADS TOKENS" with tokens per second
    race_torch.py FOLDER ID…  prints the five likeliest next tokens and their log-probabilities, to compare with `espalier`'s
"""
import json, os, struct, sys, time

import torch

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def weights(folder):
    """Every tensor of the checkpoint as float32."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            head = json.loads(file.read(size))
            for key, entry in head.items():
                if key == "__metadata__" or entry["dtype"] not in TYPES:
                    continue
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                found[key] = torch.frombuffer(bytearray(file.read(end - begin)), dtype=TYPES[entry["dtype"]]).view(entry["shape"]).float()
    return found


class Llama:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            c = json.load(file)
        self.w = weights(folder)
        self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.pairs = c.get("num_key_value_heads", self.heads)
        self.width = c.get("head_dim") or c["hidden_size"] // self.heads
        self.epsilon = c.get("rms_norm_eps", 1e-6)
        self.theta = c.get("rope_theta") or (c.get("rope_parameters") or {}).get("rope_theta", 10000.0)
        self.vocabulary = c["vocab_size"]
        self.head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        self.reset()

    def reset(self, room=1024):
        self.at = 0
        self.keys = [torch.zeros(self.pairs, room, self.width) for _ in range(self.layers)]
        self.values = [torch.zeros(self.pairs, room, self.width) for _ in range(self.layers)]

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.w[name]

    def turn(self, x, cos, sin):
        half = self.width // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def step(self, ids):
        """The logits after the last of the ids."""
        linear, count = torch.nn.functional.linear, len(ids)
        x = self.w["model.embed_tokens.weight"][torch.tensor(ids)]
        frequency = 1 / self.theta ** (torch.arange(0, self.width, 2).float() / self.width)
        angle = torch.outer(torch.arange(self.at, self.at + count).float(), frequency)
        cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
        mask = torch.full((count, self.at + count), float("-inf")).triu(self.at + 1) if count > 1 else None
        for i in range(self.layers):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm.weight")
            q, k, v = (linear(h, self.w[f"{p}self_attn.{n}_proj.weight"]).view(count, -1, self.width).transpose(0, 1) for n in "qkv")
            self.keys[i][:, self.at:self.at + count] = self.turn(k, cos, sin)
            self.values[i][:, self.at:self.at + count] = v
            k, v = self.keys[i][:, :self.at + count], self.values[i][:, :self.at + count]
            q = self.turn(q, cos, sin).reshape(self.pairs, -1, self.width)  # the heads that share a pair of keys and values, one after the other
            scores = (q @ k.transpose(1, 2)).view(self.heads, count, -1) / self.width ** 0.5
            if mask is not None:
                scores = scores + mask
            mixed = scores.softmax(-1).view(self.pairs, -1, self.at + count) @ v
            x = x + linear(mixed.view(self.heads, count, self.width).transpose(0, 1).reshape(count, -1), self.w[p + "self_attn.o_proj.weight"])
            h = self.norm(x, p + "post_attention_layernorm.weight")
            gate, up = (linear(h, self.w[f"{p}mlp.{n}_proj.weight"]) for n in ("gate", "up"))
            x = x + linear(torch.nn.functional.silu(gate) * up, self.w[p + "mlp.down_proj.weight"])
        self.at += count
        return linear(self.norm(x[-1], "model.norm.weight"), self.head)


def measure(model, threads, made, prompt):
    torch.set_num_threads(threads)
    model.reset()
    token = lambda i: (i * 7919) % model.vocabulary
    clock = time.perf_counter()
    model.step([token(i) for i in range(prompt)])
    reading = prompt / (time.perf_counter() - clock)
    clock = time.perf_counter()
    for i in range(made):
        model.step([token(prompt + i)])
    return reading, made / (time.perf_counter() - clock)


torch.set_grad_enabled(False)
model = Llama(sys.argv[1])
if ids := [int(i) for i in sys.argv[2:]]:
    # Half at once and the rest one by one: both ways of the cache.
    model.step(ids[:max(1, len(ids) // 2)])
    for i in ids[max(1, len(ids) // 2):]:
        logits = model.step([i])
    best = logits.log_softmax(-1).topk(5)
    print(*(f"{i}:{v:.4f}" for v, i in zip(best.values.tolist(), best.indices.tolist())))
    sys.exit()
print("ready", flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    threads, first, *second = map(int, numbers)
    reading, writing = measure(model, threads, first, *second) if word == "decode" else measure(model, threads, 1, first)
    print(writing if word == "decode" else reading, flush=True)
