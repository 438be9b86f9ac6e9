"""The same convolutions as conv.cc in PyTorch: the fastest of both memory formats, in milliseconds."""

import sys
import time

import torch
import torch.nn.functional as F

CASES = [
    (17, 64, 64, 3, 32, 3, 1, 1, (1, 0, 1)), (17, 64, 64, 32, 32, 3, 1, 1, (7, 7, 7)),
    (17, 64, 64, 64, 32, 3, 1, 1, (1, 1, 1)), (17, 64, 64, 64, 32, 1, 1, 1, (1, 1, 1)),
    (17, 64, 64, 32, 3, 3, 1, 1, (1, 1, 1)), (17, 64, 64, 32, 32, 3, 1, 2, (1, 1, 1)),
    (17, 32, 32, 32, 64, 3, 1, 1, (1, 1, 1)), (17, 32, 32, 32, 64, 1, 1, 1, (1, 1, 1)),
    (17, 32, 32, 64, 64, 3, 1, 1, (7, 7, 7)), (17, 32, 32, 64, 256, 3, 1, 1, (1, 1, 1)),
    (17, 32, 32, 64, 64, 3, 2, 2, (1, 1, 1)), (9, 16, 16, 64, 64, 3, 1, 1, (7, 7, 7)),
    (9, 16, 16, 128, 64, 3, 1, 1, (1, 1, 1)), (9, 16, 16, 64, 512, 3, 1, 1, (1, 1, 1)),
    (9, 16, 16, 64, 64, 3, 2, 2, (1, 1, 1)), (5, 8, 8, 64, 128, 3, 1, 1, (1, 1, 1)),
    (5, 8, 8, 128, 128, 3, 1, 1, (15, 15, 15)), (5, 8, 8, 128, 1024, 3, 1, 1, (1, 1, 1)),
]


def fastest(run):
    best, total, i = 1e9, 0.0, 0
    while i < 3 or (total < 0.3 and i < 20):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        total += time.perf_counter() - start
        i += 1
    return best * 1e3


torch.set_num_threads(2)
sums = {}
for last in (True, False):
    fmt = torch.channels_last_3d if last else torch.contiguous_format
    total = [0.0, 0.0, 0.0]
    for t, h, w, ci, co, k, st, s, counts in CASES:
        pads = [0, 0, 0] if k == 1 else [k - 1, 1, 1]
        # zeros in front in time are laid beforehand, as the twin does; the others by the convolution
        frames = t + (k - 1 if k > 1 else 0)
        if s == 2:
            h, w, pads = h + 1, w + 1, [0, 0, 0]  # one-sided: all laid beforehand
        x = torch.randn(2, ci, frames, h, w).contiguous(memory_format=fmt)
        f = torch.randn(co, ci, k, k, k).contiguous(memory_format=fmt)
        p = (0, pads[1], pads[2])
        y = F.conv3d(x, f, None, (st, s, s), p)
        dy = torch.randn_like(y).contiguous(memory_format=fmt)
        times = [fastest(lambda: F.conv3d(x, f, None, (st, s, s), p))]
        for mask in ((True, False, False), (False, True, False)):
            times.append(fastest(lambda: torch.ops.aten.convolution_backward(
                dy, x, f, None, [st, s, s], list(p), [1, 1, 1], False, [0, 0, 0], 1, list(mask))))
        for i in range(3):
            total[i] += counts[i] * times[i]
        print(f"{t}x{h}x{w} {ci}->{co} k{k} s{st}{s}  y {times[0]:.2f}  dx {times[1]:.2f}  df {times[2]:.2f}", flush=True)
    print("channels last" if last else "contiguous", "step:", [round(v) for v in total], round(sum(total)), flush=True)
