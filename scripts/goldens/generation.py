"""Plain PyTorch twin of masked (COMMIT) and causal training losses and decoding.

Written from the papers and from docs/generation.md alone: nothing of src/ is imported. It writes
test/goldens/generation.json, which test/objectives/goldens.test.ts holds every device against.

    python scripts/goldens/generation.py > test/goldens/generation.json
"""

import hashlib
import json
import math

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float32)


class Random:
    """Philox4x32-10 keyed by SHA-256 of "seed NUL stream"; the counter's upper half is the step."""

    def __init__(self, seed, stream, step=0):
        digest = hashlib.sha256(f"{seed}\0{stream}".encode()).digest()
        self.key = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)]
        self.step, self.counter, self.block = step, 0, []

    def uint32(self):
        if not self.block:
            c = [self.counter & 0xFFFFFFFF, 0, self.step & 0xFFFFFFFF, self.step >> 32]
            k = list(self.key)
            for _ in range(10):
                p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
                c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
                k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
            self.block, self.counter = c, self.counter + 1
        return self.block.pop(0)

    def uniform(self):
        return self.uint32() / 2**32

    def int(self, n):
        limit = 2**32 - 2**32 % n
        draw = self.uint32()
        while draw >= limit:
            draw = self.uint32()
        return draw % n

    def uniforms(self, n):
        return np.array([(self.uint32() >> 8) / 2**24 for _ in range(n)], np.float32)

    def permutation(self, n):
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.int(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


WIDTH, DEPTH, HEADS, INNER = 16, 2, 2, 32
GRID, FACTORS, CLASSES = (2, 2, 2), (3, 4), 3
N, VOCAB = 8, sum(FACTORS)


def weights(masked, prompts):
    """Every variable by name; values are a formula of its rank among the sorted names."""
    shapes = {
        "embed/tokens": (VOCAB, WIDTH),
        "embed/classes": (CLASSES + 1, WIDTH),
        "embed/positions": (N, WIDTH),
        "head/norm/scale": (WIDTH,),
        "head/norm/shift": (WIDTH,),
        "head/bias": (VOCAB,),
    }
    if masked:
        shapes["embed/mask"] = (WIDTH,)
        shapes["embed/prompts"] = (prompts, WIDTH)
    for i in range(DEPTH):
        for name, (a, b) in {"qkv": (WIDTH, 3 * WIDTH), "merge": (WIDTH, WIDTH), "up": (WIDTH, INNER), "down": (INNER, WIDTH)}.items():
            shapes[f"block{i}/{name}/kernel"], shapes[f"block{i}/{name}/bias"] = (a, b), (b,)
        for name in ("norm1", "norm2"):
            shapes[f"block{i}/{name}/scale"] = shapes[f"block{i}/{name}/shift"] = (WIDTH,)
    made = {}
    for j, name in enumerate(sorted(shapes)):
        size = int(np.prod(shapes[name]))
        values = [0.4 * math.sin(1.3 * k + 0.7 * j + 0.1) + (1 if name.endswith("scale") else 0) for k in range(size)]
        made[name] = torch.tensor(np.array(values, np.float32)).reshape(shapes[name])
    return made


def norm(w, name, x):
    return F.layer_norm(x, (WIDTH,), w[f"{name}/scale"], w[f"{name}/shift"], 1e-6)


def run(w, x, causal):
    """Pre-norm blocks and the tied head: [B, n, D] to [B, n, VOCAB]."""
    b, n, _ = x.shape
    for i in range(DEPTH):
        dense = lambda name, y: y @ w[f"block{i}/{name}/kernel"] + w[f"block{i}/{name}/bias"]
        q, k, v = dense("qkv", norm(w, f"block{i}/norm1", x)).reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + dense("merge", mixed.transpose(1, 2).reshape(b, n, WIDTH))
        x = x + dense("down", F.gelu(dense("up", norm(w, f"block{i}/norm2", x))))
    return norm(w, "head/norm", x) @ w["embed/tokens"].T + w["head/bias"]


def embed(w, ids):
    """Sum of the factors' embeddings: [B, n, F] to [B, n, D]."""
    return w["embed/tokens"][ids[..., 0]] + w["embed/tokens"][ids[..., 1] + FACTORS[0]]


def bidirectional(w, ids, masked, labels, prompts):
    hidden = masked[..., None].float()
    x = embed(w, ids) * (1 - hidden) + hidden * w["embed/mask"] + w["embed/positions"]
    front = [w["embed/prompts"][prompts][:, None], w["embed/classes"][labels][:, None]]
    return run(w, torch.cat([*front, x], 1), False)[:, 2:]


def causal(w, ids, labels):
    x = torch.cat([w["embed/classes"][labels][:, None], embed(w, ids[:, :-1])], 1)
    return run(w, x + w["embed/positions"], True)


def split(logits):
    return logits[..., : FACTORS[0]], logits[..., FACTORS[0] :]


def draw(logits, uniforms, temperature):
    """Inverse of the cumulative distribution, and log p of the drawn id."""
    cumulative = torch.softmax(logits / temperature, -1).cumsum(-1)
    level = cumulative[..., -1:] * uniforms[..., None]
    ids = (cumulative <= level).sum(-1)
    return ids, torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0]


def share(schedule, r, n):
    return {
        "cosine": lambda: math.cos(math.pi / 2 * r),
        "uniform": lambda: 1 - r,
        "linear": lambda: 1 - r,
        "square": lambda: 1 - r * r,
        "exponential": lambda: 1 - n ** (r - 1),
    }[schedule]()


def counts(schedule, unknown, steps):
    """Tokens decided in each step: after step k floor(γ(k/K)·unknown) are left, one at least is decided."""
    made, hidden, step = [], unknown, 1
    while hidden > 0:
        left = math.floor(share(schedule, step / steps, unknown) * unknown) if step < steps else 0
        left = max(0, min(hidden - 1, left))
        made.append(hidden - left)
        hidden, step = left, step + 1
    return made


def random_ids(seed, b):
    random = Random(seed, "golden/ids")
    return torch.tensor([[[random.int(f) for f in FACTORS] for _ in range(N)] for _ in range(b)])


B = 4
# Task 0: OPV of 1 x 8 x 8 pixels a token block ... given as flags, so that the layout is not part of this.
INSIDE = {"FP": [1, 1, 1, 1, 0, 0, 0, 0], "CG": [0] * 8}
TASKS = [0, 1, 0, 0]
NAMES = ["FP", "CG"]
LABELS = [2, 1, -1, 0]
PARTS = {"reconstruct": 0.5, "mask": 1.0, "refine": 0.25}


def commit_golden():
    w = weights(True, 2)
    seed, step, rate, smoothing = 7, 3, 0.4, 0.1
    ids, given = random_ids(1, B), random_ids(2, B)
    random = Random(seed, "masked/mask/train", step)
    offset = random.uniform()
    hidden = np.zeros((B, N), bool)
    for b in range(B):
        ratio = (offset + b / B) % 1
        number = min(N, max(1, math.ceil(share("cosine", ratio, N) * N)))
        hidden[b, random.permutation(N)[:number]] = True
    random = Random(seed, "masked/label", step)
    dropped = [random.uniform() < rate for _ in range(B)]
    inside = np.array([INSIDE[NAMES[t]] for t in TASKS], bool) & ~np.array(dropped)[:, None]
    refine, mask = hidden & inside, hidden & ~inside
    seen = torch.where(torch.tensor(refine)[..., None], given, ids)
    labels = [CLASSES if d or t == 0 or l < 0 else l for d, t, l in zip(dropped, TASKS, LABELS)]
    logits = bidirectional(w, seen, torch.tensor(mask), torch.tensor(labels), torch.tensor(TASKS))
    nats = sum(
        F.cross_entropy(part.reshape(-1, part.shape[-1]), ids[..., f].reshape(-1), reduction="none", label_smoothing=smoothing)
        for f, part in enumerate(split(logits))
    ).reshape(B, N)
    weight = torch.tensor(np.where(refine, PARTS["refine"], np.where(mask, PARTS["mask"], PARTS["reconstruct"])), dtype=torch.float32)
    mean = lambda flags: float((nats * torch.tensor(flags)).sum() / max(1, flags.sum()))
    return {
        "seed": seed, "step": step, "label_dropout": rate, "label_smoothing": smoothing,
        "ids": ids.flatten().tolist(), "given": given.flatten().tolist(), "tasks": TASKS, "labels": LABELS,
        "weights": PARTS,
        "part": np.where(refine, 2, np.where(mask, 1, 0)).flatten().tolist(),
        "loss": float((nats * weight).sum() / weight.sum()),
        "mask_loss": mean(mask), "refine_loss": mean(refine), "reconstruct_loss": mean(~hidden),
    }


def masked_decode():
    w = weights(True, 2)
    seed, steps, guidance, power, choice_temperature, temperature = 11, 4, 3.0, 2.0, 2.0, 0.9
    given = random_ids(3, B)
    inside = torch.tensor([INSIDE[NAMES[t]] for t in TASKS], dtype=torch.bool)
    labels = torch.tensor([CLASSES if t == 0 or l < 0 else l for t, l in zip(TASKS, LABELS)])
    none = torch.full((B,), CLASSES)
    tasks = torch.tensor(TASKS)
    ids = torch.zeros((B, N, 2), dtype=torch.long)
    undecided = torch.ones((B, N), dtype=torch.bool)
    number = counts("cosine", N, steps)
    for step, decide in enumerate(number):
        uniforms = torch.tensor(Random(seed, "masked/draw", step).uniforms(B * N * 2)).reshape(B, N, 2)
        shown = torch.where((undecided & inside)[..., None], given, ids)
        conditional = bidirectional(w, shown, undecided & ~inside, labels, tasks)
        unconditional = bidirectional(w, ids, undecided, none, tasks)
        progress = min(1, (step + 1) / steps)
        scale = 1 + (guidance - 1) * (1 - math.cos(math.pi * progress**power)) / 2
        logits = unconditional + (conditional - unconditional) * scale
        drawn = [draw(part, uniforms[..., f], temperature) for f, part in enumerate(split(logits))]
        log_probs = (drawn[0][1] + drawn[1][1]).double()
        random = Random(seed, "masked/choice", step)
        amount = choice_temperature * (1 - min(1, (step + 1) / steps))
        for b in range(B):
            gumbel = [-math.log(-math.log((random.uint32() + 0.5) / 2**32)) for _ in range(N)]
            confidence = [float(log_probs[b, n]) + amount * gumbel[n] for n in range(N)]
            order = sorted((n for n in range(N) if undecided[b, n]), key=lambda n: (-confidence[n], n))
            for n in order[:decide]:
                undecided[b, n] = False
                ids[b, n] = torch.stack([drawn[0][0][b, n], drawn[1][0][b, n]])
    return {
        "seed": seed, "tasks": TASKS, "labels": LABELS, "given": given.flatten().tolist(),
        "sampling": {
            "steps": steps, "schedule": "cosine", "order": "confidence", "choice_temperature": choice_temperature,
            "temperature": temperature, "top_k": 0, "top_p": 1, "guidance": guidance,
            "guidance_schedule": "power-cosine", "guidance_power": power,
        },
        "ids": ids.flatten().tolist(),
    }


def causal_decode():
    w = weights(False, 0)
    seed, guidance, temperature = 5, 2.0, 0.8
    labels = torch.tensor([CLASSES if l < 0 else l for l in LABELS])
    none = torch.full((B,), CLASSES)
    uniforms = torch.tensor(Random(seed, "causal/draw").uniforms(B * N * 2)).reshape(B, N, 2)
    ids = torch.zeros((B, N, 2), dtype=torch.long)
    for n in range(N):
        conditional, unconditional = causal(w, ids, labels)[:, n], causal(w, ids, none)[:, n]
        logits = unconditional + (conditional - unconditional) * guidance
        for f, part in enumerate(split(logits)):
            ids[:, n, f] = draw(part, uniforms[:, n, f], temperature)[0]
    logits = causal(w, ids, labels)
    nats = sum(F.cross_entropy(part.reshape(-1, part.shape[-1]), ids[..., f].reshape(-1), reduction="none") for f, part in enumerate(split(logits)))
    return {
        "seed": seed, "labels": LABELS, "ids": ids.flatten().tolist(), "loss": float(nats.mean()),
        "sampling": {
            "cache": True, "temperature": temperature, "top_k": 0, "top_p": 1, "guidance": guidance,
            "guidance_schedule": "constant", "guidance_power": 4,
        },
    }


def guidance_scales(schedule, guidance, power, steps):
    """The scale of each step: s throughout, or from near 1 up to s."""
    progress = [(step + 1) / steps for step in range(steps)]
    return {
        "constant": [guidance for _ in progress],
        "linear": [1 + (guidance - 1) * p for p in progress],
        "power-cosine": [1 + (guidance - 1) * (1 - math.cos(math.pi * p**power)) / 2 for p in progress],
    }[schedule]


def two_scales():
    """Super-resolution's guidance by two conditions (Brooks et al. 2023, eq. 3), and the draws from its logits."""
    rng = np.random.default_rng(3)
    free, low, both = (torch.tensor(rng.normal(size=(5, 7)), dtype=torch.float32) for _ in range(3))
    by_low, by_text = 1.75, 2.5
    logits = free + by_low * (low - free) + by_text * (both - low)
    return {
        "low_guidance": by_low, "text_guidance": by_text,
        "free": free.flatten().tolist(), "low": low.flatten().tolist(), "both": both.flatten().tolist(),
        "logits": logits.flatten().tolist(),
    }


print(json.dumps({
    "torch": torch.__version__,
    "guidance": {f"{s} {g} {p} {k}": guidance_scales(s, g, p, k) for s in ("constant", "linear", "power-cosine") for g, p, k in ((3.0, 1.0, 8), (5.0, 4.0, 12), (0.0, 2.0, 3))},
    "two_scales": two_scales(),
    "counts": {f"{s} {n} {k}": counts(s, n, k) for s in ("cosine", "uniform", "linear", "square", "exponential") for n, k in ((1024, 12), (1024, 24), (320, 8), (7, 12))},
    "commit": commit_golden(),
    "masked": masked_decode(),
    "causal": causal_decode(),
}, indent=1))
