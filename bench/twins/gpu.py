"""The PyTorch side of `npm run bench:gpu`: the modules of the other twins on a GPU in bfloat16 autocast, eager
or through torch.compile, with fused AdamW, clipping and a moving average. Reads one JSON order from stdin and
prints `RESULT {json}`. cudnn.benchmark is on and convolutions are channels-last, the fastest format there."""

import ctypes
import json
import os
import signal
import statistics
import sys
import time

if sys.platform == "linux":
    # Ends with the process that has started it, however that ends (PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit("the process that started this one is gone")

import torch

import tokenizer
import transformer
from training import Trainer

WARM = 5


def space_of(order):
    factors = [2 ** order["config"]["tokenizer"]["quantizer"]["bits"]]
    return {"grid": order["grid"], "factors": factors, "classes": 8}


def initialise(model):
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.02)


def timed(run, count, device):
    milliseconds = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    return milliseconds


def main():
    order = json.load(sys.stdin)
    device = order["device"] if order["device"] == "cuda" else "cpu"
    torch.set_default_device(device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    config, batch = order["config"], order["batch"]
    autocast = torch.autocast(device, dtype=torch.bfloat16)
    if order["kind"] == "tokenizer":
        data = config["dataset"]
        best = None
        names = [name for name in tokenizer.VARIANTS if name.startswith("channels-last")]
        for name in names if order["mode"] == "eager" else names[:1]:
            model = tokenizer.Tokenizer(config["tokenizer"], tokenizer.VARIANTS[name])
            initialise(model)
            clips = torch.randint(0, 256, (batch, data["frames"], data["height"], data["width"], 3), dtype=torch.uint8)
            loss = (lambda model, clips: lambda: model.loss(clips, 0))(model, clips)
            found = measure_training(model, loss, config["trainer"]["tokenizer"], order, autocast, device)
            if best is None or statistics.median(found) < statistics.median(best[0]):
                best = (found, name)
        milliseconds, note = best
    else:
        model = transformer.Twin(config, space_of(order))
        initialise(model)
        tokens = model.transformer.tokens
        labels = torch.arange(batch) % 8
        note = "scaled_dot_product_attention"
        if order["kind"] == "transformer":
            inputs = {
                "ids": torch.randint(0, space_of(order)["factors"][0], (batch, tokens, 1)),
                "labels": labels,
                "dropped": torch.zeros(batch, dtype=torch.bool),
                "masked": torch.rand(batch, tokens) < 0.6,
            }
            milliseconds = measure_training(
                model, lambda: model.loss(inputs), config["trainer"]["transformer"], order, autocast, device
            )
        else:
            with autocast:
                timed(lambda: model.decode(labels, greedy=False), 1, device)
                count = min(order["repetitions"], 5 if batch == 1 else 3)
                milliseconds = timed(lambda: model.decode(labels, greedy=False), count, device)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    parameters = sum(p.numel() for p in model.parameters())
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    result = {
        "milliseconds": milliseconds,
        "parameters": parameters,
        "memory": memory,
        "device": f"PyTorch {torch.__version__} on {name}",
        "note": note,
    }
    print("RESULT", json.dumps(result), flush=True)


def measure_training(model, loss, options, order, autocast, device):
    forward = torch.compile(loss) if order["mode"] == "compile" else loss

    def cast(step):
        with autocast:
            return forward()

    trainer = Trainer(model, cast, options)
    timed(trainer.run, WARM, device)
    return timed(trainer.run, order["repetitions"], device)


main()
