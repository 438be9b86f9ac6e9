"""The twins of src/models/transformer.ts and of the objectives and samplers over it: a pre-norm transformer
over visual tokens in plain PyTorch, trained on hidden tokens (MaskGIT, Chang et al. 2022) or on the next
one, and decoded in parallel steps or token after token with a key-value cache."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x, attend):
        b, n, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, h, n, d]
        mixed = attend(query, key, value).transpose(1, 2).reshape(b, n, width)
        x = x + self.merge(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Head(nn.Module):
    def __init__(self, width, vocabulary):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(vocabulary))


class Embed(nn.Module):
    def __init__(self, width, vocabulary, classes, tokens, mask):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(vocabulary, width))
        self.classes = nn.Parameter(torch.zeros(classes + 1, width))
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        if mask:
            self.mask = nn.Parameter(torch.zeros(width))


def attend_fully(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def attend_backward(query, key, value):
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


class Transformer(nn.Module):
    def __init__(self, config, space, mask):
        super().__init__()
        if config["positions"] != "learned" or not config["tie_weights"] or len(space["factors"]) != 1:
            raise ValueError("the twin has learned positions, tied weights and one factor")
        width = config["width"]
        (vocabulary,) = space["factors"]
        self.tokens = math.prod(space["grid"])
        self.embed = Embed(width, vocabulary, space["classes"], self.tokens, mask)
        self.depth = config["depth"]
        for i in range(self.depth):
            self.add_module(f"block{i}", Block(width, config["heads"], round(width * config["mlp_ratio"])))
        self.head = Head(width, vocabulary)

    def blocks(self, x, attend):
        for i in range(self.depth):
            x = getattr(self, f"block{i}")(x, attend)
        return x

    def logits(self, x):
        return F.linear(self.head.norm(x), self.embed.tokens, self.head.bias).flatten(0, 1)

    def bidirectional(self, ids, masked, labels):
        """ids [B, N], masked [B, N] bool, labels [B] to logits [B·N, V]."""
        x = torch.where(masked[..., None], self.embed.mask, F.embedding(ids, self.embed.tokens))
        start = F.embedding(labels, self.embed.classes)[:, None]
        y = self.blocks(torch.cat([start, x + self.embed.positions], 1), attend_fully)
        return self.logits(y[:, 1:])

    def causal(self, ids, labels):
        """ids [B, N], labels [B] to logits [B·N, V] of every token from those before it."""
        start = F.embedding(labels, self.embed.classes)[:, None]
        x = torch.cat([start, F.embedding(ids[:, :-1], self.embed.tokens)], 1)
        return self.logits(self.blocks(x + self.embed.positions, attend_backward))

    def causal_step(self, previous, labels, position, cache):
        """One place: previous [B], cache of (keys, values) [B, h, N, d] a block; logits [B, V]."""
        if position == 0:
            x = F.embedding(labels, self.embed.classes)
        else:
            x = F.embedding(previous, self.embed.tokens)
        entries = iter(cache)

        def attend(query, key, value):
            keys, values = next(entries)
            keys[:, :, position] = key[:, :, 0]
            values[:, :, position] = value[:, :, 0]
            seen = position + 1
            return F.scaled_dot_product_attention(query, keys[:, :, :seen], values[:, :, :seen])

        return self.logits(self.blocks(x[:, None] + self.embed.positions[position], attend))


class Twin(nn.Module):
    """The transformer under the name that it has among an objective's parameters."""

    def __init__(self, config, space):
        super().__init__()
        self.masked = config["objective"]["type"] == "masked"
        self.smoothing = config["objective"]["label_smoothing"]
        self.sampling = config["objective"]["sampling"]
        self.null_class = space["classes"]
        self.transformer = Transformer(config["model"], space, self.masked)

    def loss(self, inputs):
        """inputs: ids [B, N, 1], labels [B], dropped [B] bool, and for masked tokens masked [B, N] bool."""
        ids = inputs["ids"][..., 0]
        labels = torch.where(inputs["dropped"], self.null_class, inputs["labels"])
        target = ids.flatten()
        if self.masked:
            logits = self.transformer.bidirectional(ids, inputs["masked"], labels)
            weight = inputs["masked"].flatten().float()
        else:
            logits = self.transformer.causal(ids, labels)
            weight = torch.ones(target.shape)
        nats = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.smoothing)
        hits = (logits.argmax(1) == target).float()
        count = weight.sum()
        return (nats * weight).sum() / count, {"accuracy": (hits * weight).sum() / count}

    def draw(self, logits, greedy):
        """One id a row [M] by inverting the cumulative distribution, and its log p."""
        if self.sampling["top_k"] != 0 or self.sampling["top_p"] != 1 or self.sampling["guidance"] != 1:
            raise ValueError("the twin draws from all ids and has no guidance")
        if greedy:
            ids = logits.argmax(1)
        else:
            cumulative = F.softmax(logits / self.sampling["temperature"], 1).cumsum(1)
            level = cumulative[:, -1:] * torch.rand(len(logits), 1)
            ids = torch.searchsorted(cumulative, level, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
        return ids, -F.cross_entropy(logits, ids, reduction="none")

    @torch.inference_mode()
    def decode(self, labels, greedy):
        """New sequences [B, N]; `greedy` without any noise."""
        return (self.decode_masked if self.masked else self.decode_causal)(labels, greedy)

    def decode_masked(self, labels, greedy):
        """All hidden tokens are predicted; the most confident are kept, as many as a cosine says."""
        if self.sampling["schedule"] != "cosine":
            raise ValueError("the twin decodes by the cosine schedule")
        size, tokens, steps = len(labels), self.transformer.tokens, self.sampling["steps"]
        ids = torch.zeros(size, tokens, dtype=torch.long)
        masked = torch.ones(size, tokens, dtype=torch.bool)
        hidden = tokens
        step = 0
        while hidden > 0:
            step += 1
            share = math.cos(math.pi / 2 * step / steps) if step < steps else 0
            left = max(0, min(hidden - 1, math.floor(share * tokens)))
            logits = self.transformer.bidirectional(ids, masked, labels)
            drawn, confidence = (each.view(size, tokens) for each in self.draw(logits, greedy))
            if not greedy:
                gumbel = -torch.log(-torch.log(torch.rand(size, tokens)))
                confidence = confidence + self.sampling["choice_temperature"] * (1 - step / steps) * gumbel
            chosen = confidence.masked_fill(~masked, -math.inf).topk(hidden - left, 1).indices
            ids.scatter_(1, chosen, drawn.gather(1, chosen))
            masked.scatter_(1, chosen, False)
            hidden = left
        return ids

    def decode_causal(self, labels, greedy):
        """Token after token, earlier keys and values kept."""
        size, tokens = len(labels), self.transformer.tokens
        block = self.transformer.block0
        shape = (size, block.heads, tokens, block.qkv.in_features // block.heads)
        cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(self.transformer.depth)]
        ids = torch.zeros(size, tokens, dtype=torch.long)
        previous = labels
        for position in range(tokens):
            previous, _ = self.draw(self.transformer.causal_step(previous, labels, position, cache), greedy)
            ids[:, position] = previous
        return ids


def batch_of(tensors):
    """The inputs by name, indices as PyTorch wants them."""
    inputs = {name[len("input/") :]: tensor for name, tensor in tensors.items() if name.startswith("input/")}
    return {name: tensor.long() if tensor.dtype == torch.int32 else tensor for name, tensor in inputs.items()}
