"""The entropy penalty of LFQ over the whole codebook, forward and backward, as PyTorch code has it.

    lfq.py BITS TOKENS REPETITIONS THREADS

The soft assignment of every token to every code is a matrix of TOKENS by 2^BITS (the form of
vector-quantize-pytorch and of MAGVIT). Prints one JSON line: seconds a repetition, the value, and how
much the process's largest resident size grew.
"""

import json
import resource
import sys
import time

import torch

bits, tokens, repetitions, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
z = (torch.rand(tokens, bits, generator=generator) * 2 - 1).requires_grad_()
codes = torch.arange(2**bits)
codebook = ((codes[:, None] >> torch.arange(bits)) & 1).float() * 2 - 1


def penalty(z):
    probabilities = (2 * z @ codebook.t() / 0.01).softmax(-1)
    sample = -(probabilities * (probabilities + 1e-5).log()).sum(-1).mean()
    mean = probabilities.mean(0)
    return sample + (mean * (mean + 1e-5).log()).sum()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


before = peak()
seconds = []
for _ in range(repetitions):
    begin = time.perf_counter()
    value = penalty(z)
    (gradient,) = torch.autograd.grad(value, z)
    seconds.append(time.perf_counter() - begin)
print(
    json.dumps(
        {"seconds": seconds, "value": value.item(), "bytes": peak() - before, "version": torch.__version__}
    )
)
