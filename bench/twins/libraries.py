"""SSIM and MS-SSIM of torchmetrics, SSIM of scikit-image, and torchmetrics' Fréchet distance, on the data of
eval.py: for bench/README.md. Needs `pip install torchmetrics scikit-image`; medians of three."""
import statistics
import time

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from torchmetrics.image.fid import _compute_fid


def mixed(i):
    h = (i ^ (i >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ (h >> 16)


def stream(count, salt):
    return mixed(np.arange(salt, count + salt, dtype=np.uint64))


def features(n, d, salt):
    scale = 1 + (np.arange(n * d) % d) % 7
    return torch.from_numpy(stream(n * d, salt) / 2**32 * scale).reshape(n, d)


def timed(name, run, repetitions=3):
    value = float(run())
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(f"{name}: {statistics.median(seconds):.3f} s, value {value:.6f}", flush=True)


size = 16 * 256 * 256 * 3
a, noise = ((stream(size, salt) >> 24).astype(np.int32) for salt in (1, 2))
b = (3 * a + noise) >> 2
frames = [v.reshape(16, 256, 256, 3).astype(np.uint8) for v in (a, b)]
x, y = (torch.from_numpy(v).permute(0, 3, 1, 2).float().contiguous() for v in frames)
timed("torchmetrics SSIM", lambda: ssim(y, x, data_range=255.0))
timed("torchmetrics MS-SSIM", lambda: ms_ssim(y, x, data_range=255.0))
timed("scikit-image SSIM, Gaussian", lambda: np.mean([structural_similarity(p, q, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False) for p, q in zip(*frames)]))
timed("scikit-image SSIM, window 7", lambda: np.mean([structural_similarity(p, q, channel_axis=2, data_range=255) for p, q in zip(*frames)]))
f, g = features(2048, 400, 1).double(), features(2048, 400, 99991).double()
timed("torchmetrics FID of 2048 x 400", lambda: _compute_fid(f.mean(0), torch.cov(f.T), g.mean(0), torch.cov(g.T)))
