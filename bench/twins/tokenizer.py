"""The twin of src/tokenizers/magvit2.ts: MAGVIT-v2's causal 3D CNN with lookup-free quantization (Yu et al.,
ICLR 2024), in plain PyTorch. Tensors are [B, C, T, H, W], in one of PyTorch's two memory formats.

Two things can be written in more than one way, and which is faster depends on the machine; the bench
tries all of them and keeps the fastest:
- memory format: contiguous or channels last;
- the zeros of a causal convolution: all laid around the input beforehand, or only those in front in time,
  with the convolution adding its own in height and width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Variant:
    channels_last: bool
    pad_time_only: bool


VARIANTS = {
    "channels-last, convolution pads height and width": Variant(True, True),
    "channels-last, padded beforehand": Variant(True, False),
    "contiguous, convolution pads height and width": Variant(False, True),
    "contiguous, padded beforehand": Variant(False, False),
}


def same_pad(side, kernel, stride):
    """Zeros before and after an axis under TensorFlow's "SAME" rule."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class CausalConv(nn.Conv3d):
    """Padded with zeros in front in time, and on both sides in height and width."""

    def __init__(self, inputs, outputs, variant, kernel=(3, 3, 3), stride=(1, 1, 1), bias=True):
        super().__init__(inputs, outputs, kernel, stride=stride, bias=bias)
        self.pad_time_only = variant.pad_time_only

    def forward(self, x):
        (kt, kh, kw), (_, sh, sw) = self.kernel_size, self.stride
        top, bottom = same_pad(x.shape[3], kh, sh)
        left, right = same_pad(x.shape[4], kw, sw)
        padding = (0, 0, 0)
        if self.pad_time_only and top == bottom and left == right:
            padding = (0, top, left)
            top = bottom = left = right = 0
        pads = (left, right, top, bottom, kt - 1, 0)
        if any(pads):
            x = F.pad(x, pads)
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)


class FrameNorm(nn.GroupNorm):
    """Group norm of each frame by itself, then SiLU where asked."""

    def __init__(self, channels, groups, silu=True, affine=True):
        super().__init__(math.gcd(groups, channels), channels, eps=1e-6, affine=affine)
        self.silu = silu

    def forward(self, x):
        b, _, t, _, _ = x.shape
        frames = x.transpose(1, 2).flatten(0, 1)  # [B·T, C, H, W], a view when channels are last
        y = F.group_norm(frames, self.num_groups, self.weight, self.bias, self.eps)
        y = F.silu(y) if self.silu else y
        return y.unflatten(0, (b, t)).transpose(1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, groups, variant):
        super().__init__()
        self.norm1 = FrameNorm(inputs, groups)
        self.conv1 = CausalConv(inputs, outputs, variant, bias=False)
        self.norm2 = FrameNorm(outputs, groups)
        self.conv2 = CausalConv(outputs, outputs, variant, bias=False)
        if inputs != outputs:
            self.shortcut = CausalConv(inputs, outputs, variant, kernel=(1, 1, 1), bias=False)

    def forward(self, x):
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return y + (self.shortcut(x) if hasattr(self, "shortcut") else x)


def depth_to_space(x, block, channels_last):
    """Channels (bt, bh, bw, C) become positions; the first bt - 1 frames are dropped."""
    (bt, bh, bw), (b, _, t, h, w) = block, x.shape
    split = x.view(b, bt, bh, bw, -1, t, h, w)
    if channels_last:
        y = split.permute(0, 5, 1, 6, 2, 7, 3, 4).reshape(b, t * bt, h * bh, w * bw, -1).permute(0, 4, 1, 2, 3)
    else:
        y = split.permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(b, -1, t * bt, h * bh, w * bw)
    return y[:, :, bt - 1 :]


class Up(CausalConv):
    def __init__(self, channels, block, variant):
        super().__init__(channels, channels * math.prod(block), variant)
        self.block = block
        self.channels_last = variant.channels_last

    def forward(self, x):
        return depth_to_space(super().forward(x), self.block, self.channels_last)


class AdaptiveNorm(FrameNorm):
    """A norm whose scale and shift come from the codes of the latent frame."""

    def __init__(self, channels, width, groups, times):
        super().__init__(channels, groups, silu=False, affine=False)
        self.scale = nn.Linear(width, channels)
        self.shift = nn.Linear(width, channels)
        self.times = times

    def spread(self, style):
        frames = style.repeat_interleave(self.times, 1)[:, self.times - 1 :]  # [B, T, C]
        return frames.transpose(1, 2)[..., None, None]

    def forward(self, x, codes):
        style = codes.mean((3, 4)).transpose(1, 2)  # [B, t, D]
        return super().forward(x) * (1 + self.spread(self.scale(style))) + self.spread(self.shift(style))


class Blocks(nn.Module):
    """A named run of residual blocks, with whatever else a level holds."""

    def __init__(self, count, inputs, outputs, groups, variant):
        super().__init__()
        self.count = count
        for i in range(count):
            self.add_module(f"block{i}", ResidualBlock(inputs if i == 0 else outputs, outputs, groups, variant))

    def forward(self, x):
        for i in range(self.count):
            x = getattr(self, f"block{i}")(x)
        return x


class Network(nn.Module):
    """What encoder and decoder share: sizes out of the config."""

    def __init__(self, config):
        super().__init__()
        if config["patch_size"] != 1:
            raise ValueError("the twin has no patches")
        self.channels = [m * config["base_channels"] for m in config["channel_multipliers"]]
        self.blocks = [(t, s, s) for t, s in zip(config["temporal_strides"], config["spatial_strides"])]
        self.groups = config["norm_groups"]
        self.width = config["quantizer"]["bits"]


class Encoder(Network):
    def __init__(self, config, variant):
        super().__init__(config)
        current = self.channels[0]
        self.stem = CausalConv(3, current, variant, bias=False)
        for i, outputs in enumerate(self.channels):
            level = Blocks(config["blocks"], current, outputs, self.groups, variant)
            current = outputs if config["blocks"] else current
            if i < len(self.blocks):
                block = self.blocks[i]
                kernel = tuple(max(3, side) for side in block)
                level.down = CausalConv(current, current, variant, kernel=kernel, stride=block)
            self.add_module(f"level{i}", level)
        self.bottleneck = Blocks(config["bottleneck_blocks"], current, current, self.groups, variant)
        self.norm = FrameNorm(current, self.groups)
        self.project = CausalConv(current, self.width, variant, kernel=(1, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        for i in range(len(self.channels)):
            level = getattr(self, f"level{i}")
            x = level(x)
            x = level.down(x) if i < len(self.blocks) else x
        return self.project(self.norm(self.bottleneck(x)))


class Decoder(Network):
    def __init__(self, config, variant):
        super().__init__(config)
        current = self.channels[-1]
        times = 1
        self.adaptive = config["adaptive_norm"]
        self.stem = CausalConv(self.width, current, variant)
        self.bottleneck = Blocks(config["bottleneck_blocks"], current, current, self.groups, variant)
        for i in reversed(range(len(self.channels))):
            level = Blocks(config["blocks"], current, self.channels[i], self.groups, variant)
            if self.adaptive:
                level.adaptive = AdaptiveNorm(current, self.width, self.groups, times)
            current = self.channels[i] if config["blocks"] else current
            if i > 0:
                level.up = Up(current, self.blocks[i - 1], variant)
                times *= self.blocks[i - 1][0]
            self.add_module(f"level{i}", level)
        self.norm = FrameNorm(current, self.groups)
        self.head = CausalConv(current, 3, variant)

    def forward(self, codes):
        x = self.bottleneck(self.stem(codes))
        for i in reversed(range(len(self.channels))):
            level = getattr(self, f"level{i}")
            x = level.adaptive(x, codes) if self.adaptive else x
            x = level(x)
            x = level.up(x) if i > 0 else x
        return self.head(self.norm(x))


def sign_matrix(bits):
    """[bits, 2^bits]: every code as a column of ±1."""
    codes = torch.arange(2**bits)
    return (codes[None] >> torch.arange(bits)[:, None] & 1).float() * 2 - 1


def joint_entropy(z, temperature):
    """Entropy of the mean joint assignment of the bits z [N, g], in nats, by two halves."""
    rows, bits = z.shape
    low = (bits + 1) // 2
    p = F.softmax(z[:, :low] @ sign_matrix(low) * (2 / temperature), 1)
    q = F.softmax(z[:, low:] @ sign_matrix(bits - low) * (2 / temperature), 1)
    mean = p.t() @ q / rows
    return -(mean * torch.log(mean + 1e-5)).sum()


def entropy_penalty(z, config):
    """Entropy of single assignments minus that of their mean, both summed over bits. z: [N, L]."""
    temperature = config["entropy_temperature"]
    logit = (z * (4 / temperature)).abs()
    other = torch.sigmoid(-logit)
    sample = (logit * other - torch.log(1 - other)).sum() / z.shape[0]
    bits = z.shape[1]
    parts = math.ceil(bits / config["entropy_group_bits"])
    edges = [i * bits // parts for i in range(parts + 1)]
    batch = sum(joint_entropy(z[:, a:b], temperature) for a, b in zip(edges, edges[1:]))
    return sample - config["entropy_diversity"] * batch


class Tokenizer(nn.Module):
    def __init__(self, config, variant):
        super().__init__()
        if config["l1_weight"] != 0 or config["quantizer"]["pre_norm"]:
            raise ValueError("the twin has neither an L1 loss nor a norm before the projection")
        self.config = config
        self.channels_last = variant.channels_last
        self.encoder = Encoder(config, variant)
        self.decoder = Decoder(config, variant)
        if self.channels_last:
            self.to(memory_format=torch.channels_last_3d)

    def loss(self, clips, step):
        """clips: [B, T, H, W, 3] uint8."""
        quantizer = self.config["quantizer"]
        x = (clips.float() * (1 / 127.5) - 1).permute(0, 4, 1, 2, 3)  # channels are last in memory
        x = x if self.channels_last else x.contiguous()
        z = self.encoder(x)
        codes = torch.where(z > 0, 1.0, -1.0)
        commitment = F.mse_loss(z, codes)
        rows = z.permute(0, 2, 3, 4, 1).flatten(0, 3)
        remaining = max(0.0, 1 - step / quantizer["entropy_anneal_steps"])
        weight = quantizer["entropy_weight"] * (1 + remaining * (quantizer["entropy_anneal_factor"] - 1))
        penalty = quantizer["commitment_weight"] * commitment + weight * entropy_penalty(rows, quantizer)
        error = (self.decoder(z + (codes - z).detach()) - x) * 0.5
        l2 = error.square().mean()
        loss = penalty + self.config["l2_weight"] * l2
        return loss, {"reconstruction": l2, "commitment": commitment}
