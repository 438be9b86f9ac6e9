"""What evaluation computes, in plain PyTorch as pytorch-i3d, pytorch_msssim and torchmetrics write it:
python3 eval.py WORKLOAD THREADS prints {value, seconds, note}."""
import json, math, sys, time
import numpy as np, torch, torch.nn as nn, torch.nn.functional as F

torch.set_grad_enabled(False)
torch.set_num_threads(int(sys.argv[2]))


def hashed(count, salt):
    """murmur3's last steps of salt, salt + 1, ..."""
    with np.errstate(over="ignore"):
        i = np.arange(salt, salt + count, dtype=np.uint32)
        h = (i ^ (i >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return h ^ (h >> np.uint32(16))


def pixels(count, salt): return torch.tensor((hashed(count, salt) >> np.uint32(24)).astype(np.uint8))


def features(n, d, salt):
    v = hashed(n * d, salt).astype(np.float64) / 2**32 * (1 + (np.arange(n * d) % d) % 7)
    return torch.tensor(v.astype(np.float32)).reshape(n, d)


def timed(repetitions, run, note):
    value, seconds = run(), []
    for _ in range(repetitions):
        t = time.perf_counter(); value = run(); seconds.append(time.perf_counter() - t)
    print(json.dumps(dict(value=float(value), seconds=seconds, note=note)))


class Unit(nn.Module):
    def __init__(self, ci, co, k=1, s=1, bn=True):
        super().__init__(); self.k, self.s = k, s
        self.conv = nn.Conv3d(ci, co, k, s, bias=not bn); self.bn = nn.BatchNorm3d(co, eps=1e-3) if bn else None

    def forward(self, x):
        pads = []
        for n in reversed(x.shape[2:]):
            p = max((math.ceil(n / self.s) - 1) * self.s + self.k - n, 0); pads += [p // 2, p - p // 2]
        x = self.conv(F.pad(x, pads) if any(pads) else x)
        return F.relu(self.bn(x)) if self.bn is not None else x


def pool(x, k, s):
    pads = []
    for n, kk, ss in reversed(list(zip(x.shape[2:], k, s))):
        p = max((math.ceil(n / ss) - 1) * ss + kk - n, 0); pads += [p // 2, p - p // 2]
    return F.max_pool3d(F.pad(x, pads), k, s)


class Mixed(nn.Module):
    def __init__(self, ci, w):
        super().__init__(); a, b1, b2, c1, c2, d = w
        self.b0, self.b1, self.b2, self.b3 = Unit(ci, a), nn.Sequential(Unit(ci, b1), Unit(b1, b2, 3)), nn.Sequential(Unit(ci, c1), Unit(c1, c2, 3)), Unit(ci, d)

    def forward(self, x): return torch.cat([self.b0(x), self.b1(x), self.b2(x), self.b3(pool(x, (3, 3, 3), (1, 1, 1)))], 1)


class I3D(nn.Module):
    W = dict(a=(64, 96, 128, 16, 32, 32), b=(128, 128, 192, 32, 96, 64), c=(192, 96, 208, 16, 48, 64), d=(160, 112, 224, 24, 64, 64), e=(128, 128, 256, 24, 64, 64), f=(112, 144, 288, 32, 64, 64), g=(256, 160, 320, 32, 128, 128), h=(256, 160, 320, 32, 128, 128), i=(384, 192, 384, 48, 128, 128))

    def __init__(self):
        super().__init__(); self.c1, self.c2, self.c3 = Unit(3, 64, 7, 2), Unit(64, 64), Unit(64, 192, 3); ci, self.m = 192, nn.ModuleDict()
        for k, w in self.W.items(): self.m[k] = Mixed(ci, w); ci = w[0] + w[2] + w[4] + w[5]
        self.out = Unit(ci, 400, bn=False)

    def forward(self, x):
        x = pool(self.c1(x), (1, 3, 3), (1, 2, 2)); x = pool(self.c3(self.c2(x)), (1, 3, 3), (1, 2, 2))
        for k, m in self.m.items():
            if k == "c": x = pool(x, (3, 3, 3), (2, 2, 2))
            if k == "h": x = pool(x, (2, 2, 2), (2, 2, 2))
            x = m(x)
        return self.out(F.avg_pool3d(x, (2, 7, 7), 1)).flatten(2).mean(2)


def i3d():
    net = I3D().eval(); raw = pixels(16 * 224 * 224 * 3, 7).reshape(1, 16, 224, 224, 3); best = None
    for form in (torch.contiguous_format, torch.channels_last_3d):
        m = net.to(memory_format=form); run = lambda: m((raw.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).contiguous(memory_format=form)).numel()
        run(); t = time.perf_counter(); run(); t = time.perf_counter() - t
        if best is None or t < best[0]: best = (t, form)
    m = net.to(memory_format=best[1]); timed(3, lambda: m((raw.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).contiguous(memory_format=best[1])).numel(), f"PyTorch {torch.__version__}")


def window(): g = torch.exp(-((torch.arange(11, dtype=torch.float32) - 5) ** 2) / (2 * 1.5**2)); return g / g.sum()


def blur(x, w):
    c = x.shape[1]; x = F.conv2d(x, w.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c); return F.conv2d(x, w.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)


def ssim_maps(x, y, w):
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2; mx, my = blur(x, w), blur(y, w)
    sxx, syy, sxy = blur(x * x, w) - mx * mx, blur(y * y, w) - my * my, blur(x * y, w) - mx * my
    cs = (2 * sxy + c2) / (sxx + syy + c2); return (2 * mx * my + c1) / (mx * mx + my * my + c1) * cs, cs


def pair():
    a, noise = (pixels(16 * 256 * 256 * 3, s).int() for s in (1, 2)); b = (3 * a + noise) >> 2
    return [t.reshape(16, 256, 256, 3).permute(0, 3, 1, 2).float().contiguous() for t in (a, b)]


def ssim():
    x, y = pair(); w = window(); timed(3, lambda: ssim_maps(x, y, w)[0].flatten(1).mean(1).mean(), "PyTorch, as pytorch_msssim")


def ms_ssim():
    x0, y0 = pair(); w = window(); weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    def run():
        x, y, parts = x0, y0, []
        for i in range(5):
            s, cs = (m.flatten(2).mean(2) for m in ssim_maps(x, y, w)); parts.append(torch.relu(cs if i < 4 else s))
            if i < 4: p = [d % 2 for d in x.shape[2:]]; x, y = F.avg_pool2d(x, 2, padding=p), F.avg_pool2d(y, 2, padding=p)
        return torch.prod(torch.stack(parts) ** weights.view(-1, 1, 1), 0).mean(1).mean()
    timed(3, run, "PyTorch, as pytorch_msssim")


def frechet(n, d, repetitions):
    x, y = features(n, d, 1).double(), features(n, d, 99991).double()
    def run():
        def moments(f): m = f.mean(0); c = f - m; return m, c.t() @ c / (n - 1)
        (m1, s1), (m2, s2) = moments(x), moments(y)
        return (m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * torch.linalg.eigvals(s1 @ s2).sqrt().real.sum()
    timed(repetitions, run, "PyTorch, as torchmetrics")


dict({"i3d-16": i3d, "ssim": ssim, "ms-ssim": ms_ssim, "frechet-400": lambda: frechet(2048, 400, 3), "frechet-2048": lambda: frechet(4096, 2048, 1)})[sys.argv[1]]()
