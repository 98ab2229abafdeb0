"""Reads a packed matrix (docs/packed-format.md): read_packed.py FILE NAME writes its float32 numbers to standard output."""
import json
import struct
import sys


def read(path, name):
    with open(path, "rb") as file:
        data = file.read()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])

    def tensor(suffix):
        start, end = header[name + suffix]["data_offsets"]
        return data[8 + length + start:8 + length + end]

    metadata = header["__metadata__"]
    assert metadata["format"] == "espalier-packed-1"
    kind, shape = metadata["matrix:" + name].split(" ")[:2]
    rows, columns = (int(side) for side in shape.split("x"))
    stream, starts = tensor(".packed"), struct.unpack("<%di" % (rows + 1), tensor(".rows"))
    scales = struct.unpack("<%df" % rows, tensor(".scales")) if kind == "int8" else [1.0] * rows
    blocks = (columns + 63) // 64
    matrix = []
    for row in range(rows):
        at, line = starts[row] * 8, [0.0] * columns
        masks = struct.unpack_from("<%dQ" % blocks, stream, at)
        at += 8 * blocks
        block_scales = [scales[row]] * blocks
        if kind == "int4":
            block_scales = [bfloat16(s) for s in struct.unpack_from("<%dH" % blocks, stream, at)]
            at += 2 * blocks
        for block, mask in enumerate(masks):
            kept = [j for j in range(64) if mask >> j & 1]
            n = len(kept)
            if kind == "int4":
                pairs = stream[at:at + (n + 1) // 2]
                codes = [pairs[i // 2] >> 4 * (i % 2) & 15 for i in range(n)]
                values, size = [c - 16 if c > 7 else c for c in codes], len(pairs)
            elif kind == "bf16":
                values, size = [bfloat16(v) for v in struct.unpack_from("<%dH" % n, stream, at)], 2 * n
            else:
                code, width = {"f32": ("f", 4), "f16": ("e", 2), "int8": ("b", 1)}[kind]
                values, size = struct.unpack_from("<%d%s" % (n, code), stream, at), width * n
            for j, value in zip(kept, values):
                line[64 * block + j] = value * block_scales[block]
            at += size
        matrix.append(line)
    return matrix


def bfloat16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


for line in read(sys.argv[1], sys.argv[2]):
    sys.stdout.buffer.write(struct.pack("<%df" % len(line), *line))
