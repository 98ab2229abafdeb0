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
    kind, shape, *rest = metadata["matrix:" + name].split(" ")
    code = next((word for word in rest if word != "transposed"), "bitmask")
    rows, columns = (int(side) for side in shape.split("x"))
    stream, starts = tensor(".packed"), struct.unpack("<%di" % (rows + 1), tensor(".rows"))
    blocks = (columns + 63) // 64
    scale_count = {"int4": 2 if code == "dense" else 1, "int8": 1 if code == "dense" else 0}.get(kind, 0)
    scales = struct.unpack("<%df" % rows, tensor(".scales")) if kind == "int8" and code != "dense" else [1.0] * rows
    matrix = []
    for row in range(rows):
        at, line = starts[row] * 8, [0.0] * (64 * blocks)
        kept, at = places(stream, at, blocks, code)
        stored = [bfloat16(s) for s in struct.unpack_from("<%dH" % (blocks * scale_count), stream, at)]
        at += 2 * blocks * scale_count
        for block, columns_kept in enumerate(kept):
            n = len(columns_kept)
            values, size = numbers(stream, at, n, kind, code)
            for i, (j, value) in enumerate(zip(columns_kept, values)):
                scale = stored[block * scale_count + (i // 32 if scale_count == 2 else 0)] if scale_count else scales[row]
                line[64 * block + j] = value * scale
            at += size
        matrix.append(line[:columns])
    return matrix


def places(stream, at, blocks, code):
    """The columns of each block that have a value, and where the places end."""
    if code == "dense":
        return [list(range(64))] * blocks, at
    if code == "bitmask":
        masks = struct.unpack_from("<%dQ" % blocks, stream, at)
        return [[j for j in range(64) if mask >> j & 1] for mask in masks], at + 8 * blocks
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    words = [int.from_bytes(stream[at + 6 * b:at + 6 * b + 6], "little") for b in range(blocks)]
    return [[4 * g + j for g in range(16) for j in pairs[word >> 3 * g & 7]] for word in words], at + 6 * blocks


def numbers(stream, at, n, kind, code):
    """The n values of a block without their scale, and their bytes."""
    if kind == "int4":
        pairs = stream[at:at + (n + 1) // 2]
        if code == "bitmask":
            codes = [pairs[i // 2] >> 4 * (i % 2) & 15 for i in range(n)]
        else:
            codes = [p & 15 for p in pairs] + [p >> 4 for p in pairs]
        return [c - 16 if c > 7 else c for c in codes], len(pairs)
    if kind == "bf16":
        return [bfloat16(v) for v in struct.unpack_from("<%dH" % n, stream, at)], 2 * n
    letter, width = {"f32": ("f", 4), "f16": ("e", 2), "int8": ("b", 1)}[kind]
    return struct.unpack_from("<%d%s" % (n, letter), stream, at), width * n


def bfloat16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


for line in read(sys.argv[1], sys.argv[2]):
    sys.stdout.buffer.write(struct.pack("<%df" % len(line), *line))
