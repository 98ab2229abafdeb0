#!/usr/bin/env python3
"""What the original code makes of our vision nets: torchvision (ResNets, VGG-16), timm (DeiT, ViT) and EDSR-PyTorch's net, with weights and an image that both sides draw
from the names of the tensors, so that only answers are stored. VisionPeerTests compares them.

  python3 bench/vision_peers.py [--out tests/peers/vision]      needs PyTorch, torchvision and timm

A value is a hash of the tensor's name (FNV-1a) and of its place in it, as a number v in [-1, 1): weights v·sqrt(4.5 / inputs), factors of norms 1 + 0.4 v, biases and running means 0.2 v,
running variances 1 + 0.5 v, class token and positions 0.3 v, the image (v + 1) / 2."""
import argparse, json, math, os, struct
import numpy, timm, torch, torchvision
from torch import nn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MEAN, DEVIATION, SHIFT = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [0.4488, 0.4371, 0.4040]


def draw(name, shape):
    mixed = 2166136261
    for byte in name.encode():
        mixed = (mixed ^ byte) * 16777619 & 0xFFFFFFFF
    with numpy.errstate(over="ignore"):
        u = numpy.arange(math.prod(shape), dtype=numpy.uint32) * numpy.uint32(2654435761) + numpy.uint32(mixed)
        for _ in range(2):
            u = (u ^ (u >> numpy.uint32(16))) * numpy.uint32(0x045D9F3B)
        u ^= u >> numpy.uint32(16)
    v = (u >> numpy.uint32(8)).astype(numpy.float32) * numpy.float32(2.0**-23) - numpy.float32(1)
    return v.reshape(shape)


def value(name, shape):
    v = draw(name, shape)
    of = lambda base, factor: numpy.float32(base) + numpy.float32(factor) * v
    last = name.split(".")[-1]
    if last == "running_var":
        return of(1, 0.5)
    if last in ("cls_token", "pos_embed"):
        return of(0, 0.3)
    if len(shape) > 1:
        return v * numpy.float32(math.sqrt(4.5 / (math.prod(shape) // shape[0])))
    return of(1, 0.4) if last == "weight" else of(0, 0.2)


class Refined(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1))

    def forward(self, x):
        return x + self.body(x)


class Edsr(nn.Module):
    """Lim et al. 2017, with the names and the fixed mean of its published checkpoints."""

    def __init__(self, scale, rgb_range, features=64, blocks=16):
        super().__init__()
        conv = lambda inputs, outputs: nn.Conv2d(inputs, outputs, 3, padding=1)
        steps = [3] if scale == 3 else [2] * int(math.log2(scale))
        self.head = nn.Sequential(conv(3, features))
        self.body = nn.Sequential(*(Refined(features) for _ in range(blocks)), conv(features, features))
        self.tail = nn.Sequential(nn.Sequential(*(part for s in steps for part in (conv(features, s * s * features), nn.PixelShuffle(s)))), conv(features, 3))
        self.mean = rgb_range * torch.tensor(SHIFT).view(3, 1, 1)

    def forward(self, x):
        x = self.head(x - self.mean)
        return self.tail(self.body(x) + x) + self.mean


def nets():
    """(name, peer, its net, our configuration, whether its images are normalised outside) of each."""
    normal = {"num_classes": 1000, "image_mean": MEAN, "image_std": DEVIATION}
    vision, image = f"torchvision {torchvision.__version__}", f"timm {timm.__version__}"
    for depth in (18, 34, 50):
        yield f"resnet{depth}", vision, getattr(torchvision.models, f"resnet{depth}")(), {"model_type": "torchvision_resnet", "depth": depth, "image_size": 96, **normal}, 1
    yield "vgg16_bn", vision, torchvision.models.vgg16_bn(), {"model_type": "torchvision_vgg", "image_size": 224, **normal}, 1
    yield "deit_tiny", image, timm.create_model("deit_tiny_patch16_224"), {"model_type": "timm_vit", "image_size": 224, **normal}, 1
    yield "vit_small", image, timm.create_model("vit_small_patch16_224"), {"model_type": "timm_vit", "image_size": 224, "embed_dim": 384, "num_heads": 6, **normal}, 1
    for scale in (2, 3, 4):
        yield f"edsr_x{scale}", "EDSR-PyTorch's net", Edsr(scale, 255), {"model_type": "edsr", "scale": scale, "image_size": 12, "rgb_range": 255, "image_mean": SHIFT}, 255


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default=os.path.join(ROOT, "tests", "peers", "vision"))
    out = options.parse_args().out
    os.makedirs(out, exist_ok=True)
    for name, peer, net, config, pixels in nets():
        net.eval()
        for tensor_name, tensor in net.state_dict().items():
            if tensor.dtype == torch.float32:
                tensor.copy_(torch.from_numpy(value(tensor_name, tuple(tensor.shape))))
        x = torch.from_numpy((draw("input", (1, 3, config["image_size"], config["image_size"])) + numpy.float32(1)) * numpy.float32(0.5))
        shown = x * pixels if "rgb_range" in config else (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
        with torch.no_grad():
            y = net(shown) / pixels
        header = {"__metadata__": {"config": json.dumps(config), "peer": peer}, "y": {"dtype": "F32", "shape": list(y.shape), "data_offsets": [0, 4 * y.numel()]}}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(out, name + ".safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + y.contiguous().numpy().tobytes())
        print(f"{name}: {tuple(y.shape)} by {peer}, deviation {y.std():.3f}")


if __name__ == "__main__":
    main()
