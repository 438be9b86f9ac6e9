"""Makes features_conformance.json: C3D at an eighth of its width, VGGish, and CLIP and VideoMAE at
toy sizes, written here once more in plain PyTorch (float64) with formula weights: tensor k in the
order below has the values float32(scale * sym(seed + k)) + offset, as in the other goldens.
python3 make_features.py"""
import json, math, os
import numpy as np, torch, torch.nn.functional as F

torch.set_grad_enabled(False)
M = 1 << 32


def mulberry(seed, n):
    with np.errstate(over="ignore"):
        i = np.arange(1, n + 1, dtype=np.uint32)
        a = (np.uint32(seed) + i * np.uint32(0x6D2B79F5)).astype(np.uint32)
        t = ((a ^ (a >> np.uint32(15))) * (a | np.uint32(1))).astype(np.uint32)
        t = (t ^ (t + ((t ^ (t >> np.uint32(7))) * (t | np.uint32(61))).astype(np.uint32)).astype(np.uint32)).astype(np.uint32)
        return (t ^ (t >> np.uint32(14))).astype(np.float64) / M


class Made:
    """Formula tensors, counted up from a seed."""
    def __init__(self, seed): self.seed, self.names = seed, []
    def __call__(self, name, shape, scale=1.0, offset=0.0):
        k = len(self.names); self.names.append(dict(name=name, shape=list(shape), scale=scale, offset=offset))
        v = (offset + scale * (2 * mulberry(self.seed + k, int(np.prod(shape))) - 1)).astype(np.float32)
        return torch.tensor(v.astype(np.float64)).reshape(shape)
    def fan(self, name, shape): return self(name, shape, math.sqrt(6 / np.prod(shape[1:])))


def case(made, seed, **out):
    return dict(seed=made.seed, tensors=made.names, input_seed=seed, **{k: v.reshape(-1).tolist() for k, v in out.items()})


def c3d():
    m = Made(6000); mean = m("mean", (3, 16, 128, 171), 100.0)
    x = torch.tensor(((2 * mulberry(6900, 16 * 112 * 112 * 3) - 1).astype(np.float32) * np.float32(0.5) + np.float32(0.5)).astype(np.float64)).reshape(1, 16, 112, 112, 3)
    h = x.permute(0, 4, 1, 2, 3).flip(1) * 255
    off = F.interpolate(mean[None, :, :, :, 21:149].permute(0, 2, 1, 3, 4)[0], size=(112, 112), mode="bilinear", align_corners=True).permute(1, 0, 2, 3)[None]
    h = h - off; ci = 3
    for n, w in (("conv1a", 8), ("conv2a", 16), ("conv3a", 32), ("conv3b", 32), ("conv4a", 64), ("conv4b", 64), ("conv5a", 64), ("conv5b", 64)):
        h = torch.relu(F.conv3d(h, m.fan(n + "/W", (w, ci, 3, 3, 3)), m(n + "/b", (w,), 0.1), padding=1)); ci = w
        if n == "conv1a": h = F.max_pool3d(h, (1, 2, 2))
        if n in ("conv2a", "conv3b", "conv4b"): h = F.max_pool3d(h, 2)
    h = F.max_pool3d(F.pad(h, (0, 1, 0, 1)), 2).reshape(1, -1)
    f6 = torch.relu(F.linear(h, m.fan("fc6/W", (512, h.shape[1])), m("fc6/b", (512,), 0.1)))
    f7 = torch.relu(F.linear(f6, m.fan("fc7/W", (512, 512)), m("fc7/b", (512,), 0.1)))
    return case(m, 6900, logits=F.linear(f7, m.fan("fc8/W", (101, 512)), m("fc8/b", (101,), 0.1)))


def vggish():
    m = Made(6200); x = torch.tensor((2 * mulberry(6901, 96 * 64) - 1).astype(np.float32).astype(np.float64)).reshape(1, 1, 96, 64); h, ci = x, 1
    for i, w, pool in ((0, 64, 1), (3, 128, 1), (6, 256, 0), (8, 256, 1), (11, 512, 0), (13, 512, 1)):
        h = torch.relu(F.conv2d(h, m.fan(f"features.{i}.weight", (w, ci, 3, 3)), m(f"features.{i}.bias", (w,), 0.05), padding=1)); ci = w
        if pool: h = F.max_pool2d(h, 2)
    h = h.permute(0, 2, 3, 1).reshape(1, -1)
    for i, w in ((0, 4096), (2, 4096), (4, 128)):
        h = F.linear(h, m.fan(f"embeddings.{i}.weight", (w, h.shape[1])), m(f"embeddings.{i}.bias", (w,), 0.05))
        if i < 4: h = torch.relu(h)
    return case(m, 6901, features=h)


def attend(q, k, v, heads, causal):
    b, n, d = q.shape; s = lambda t: t.reshape(b, n, heads, d // heads).transpose(1, 2)
    a = s(q) @ s(k).transpose(2, 3) / math.sqrt(d // heads)
    if causal: a = a + torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)
    return (a.softmax(-1) @ s(v)).transpose(1, 2).reshape(b, n, d)


def clip():
    m = Made(6400); W, L, P, S, E, V, C, TW = 24, 2, 4, 8, 12, 40, 7, 16
    x = torch.tensor(((2 * mulberry(6902, 2 * S * S * 3) - 1).astype(np.float32) * np.float32(0.5) + np.float32(0.5)).astype(np.float64)).reshape(2, S, S, 3)
    ln = lambda t, n: F.layer_norm(t, (t.shape[-1],), m(n + ".weight", (t.shape[-1],), 0.2, 1.0), m(n + ".bias", (t.shape[-1],), 0.1), 1e-5)
    lin = lambda t, n, o: F.linear(t, m.fan(n + ".weight", (o, t.shape[-1])), m(n + ".bias", (o,), 0.1))
    def tower(h, root, heads, causal):
        for i in range(L):
            p = f"{root}transformer.resblocks.{i}."; w = h.shape[-1]; y = ln(h, p + "ln_1")
            q = F.linear(y, m.fan(p + "attn.in_proj_weight", (3 * w, w)), m(p + "attn.in_proj_bias", (3 * w,), 0.1))
            h = h + lin(attend(*q.chunk(3, -1), heads, causal), p + "attn.out_proj", w)
            y = lin(ln(h, p + "ln_2"), p + "mlp.c_fc", 4 * w); h = h + lin(y * torch.sigmoid(1.702 * y), p + "mlp.c_proj", w)
        return h
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    h = F.conv2d(((x - mean) / std).permute(0, 3, 1, 2), m.fan("visual.conv1.weight", (W, 3, P, P)), stride=P).flatten(2).transpose(1, 2)
    h = torch.cat([m("visual.class_embedding", (W,), 0.5).expand(2, 1, W), h], 1) + m("visual.positional_embedding", ((S // P) ** 2 + 1, W), 0.5)
    h = tower(ln(h, "visual.ln_pre"), "visual.", 3, False)
    img = ln(h[:, 0], "visual.ln_post") @ m("visual.proj", (W, E), 0.3)
    ids = torch.tensor([[38, 5, 39, 0, 0, 0, 0], [38, 7, 9, 1, 2, 39, 0]])
    t = m("token_embedding.weight", (V, TW), 0.5)[ids] + m("positional_embedding", (C, TW), 0.5)
    t = ln(tower(t, "", 2, True), "ln_final"); txt = t[torch.arange(2), torch.tensor([2, 5])] @ m("text_projection", (TW, E), 0.3)
    return dict(case(m, 6902, image=F.normalize(img, dim=-1), text=F.normalize(txt, dim=-1)), ids=ids.reshape(-1).tolist(), ends=[2, 5])


def videomae():
    m = Made(6600); W, L, T, S, P = 24, 2, 4, 8, 4
    x = torch.tensor(((2 * mulberry(6903, T * S * S * 3) - 1).astype(np.float32) * np.float32(0.5) + np.float32(0.5)).astype(np.float64)).reshape(1, T, S, S, 3)
    ln = lambda t, n: F.layer_norm(t, (W,), m(n + ".weight", (W,), 0.2, 1.0), m(n + ".bias", (W,), 0.1), 1e-6)
    lin = lambda t, n, o: F.linear(t, m.fan(n + ".weight", (o, t.shape[-1])), m(n + ".bias", (o,), 0.1))
    h = F.conv3d(x.permute(0, 4, 1, 2, 3), m.fan("patch_embed.proj.weight", (W, 3, 2, P, P)), m("patch_embed.proj.bias", (W,), 0.1), stride=(2, P, P)).flatten(2).transpose(1, 2)
    pos = np.array([[i / np.power(10000, 2 * (j // 2) / W) for j in range(W)] for i in range(h.shape[1])]); pos[:, 0::2] = np.sin(pos[:, 0::2]); pos[:, 1::2] = np.cos(pos[:, 1::2])
    h = h + torch.tensor(pos)
    for i in range(L):
        p = f"blocks.{i}."; y = ln(h, p + "norm1")
        b = torch.cat([m(p + "attn.q_bias", (W,), 0.1), torch.zeros(W), m(p + "attn.v_bias", (W,), 0.1)])
        q = F.linear(y, m.fan(p + "attn.qkv.weight", (3 * W, W)), b); h = h + lin(attend(*q.chunk(3, -1), 3, False), p + "attn.proj", W)
        h = h + lin(F.gelu(lin(ln(h, p + "norm2"), p + "mlp.fc1", 40)), p + "mlp.fc2", W)
    return case(m, 6903, features=ln(h.mean(1), "fc_norm"))


out = dict(c3d=c3d(), vggish=vggish(), clip=clip(), videomae=videomae())
json.dump(out, open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "features_conformance.json"), "w"))
