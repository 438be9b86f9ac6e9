"""The PyTorch side of the bench: reads one JSON command a line, answers with one JSON line.

{"do": "open", "workload": ..., "file": ..., "config": ..., "space": ..., "threads": n}  versions, variants
{"do": "choose", "variant": ...}           builds a variant from the initial weights
{"do": "run", "count": n, "check": bool}   n repetitions: the seconds and the outcome of each

Between commands the process sleeps; each answer says how much processor time it took while idle.
"""

import json
import sys
import time

try:
    import numpy  # noqa: F401
    import torch
except ImportError as error:
    print(json.dumps({"missing": str(error)}), flush=True)
    sys.exit(2)

import tokenizer
import transformer
from exchange import load_parameters, read_safetensors
from training import Trainer


def train_tokenizer(tensors, config, space, variant):
    model = tokenizer.Tokenizer(config["tokenizer"], tokenizer.VARIANTS[variant])
    load_parameters(model, tensors)
    clips = tensors["input/clips"]
    trainer = Trainer(model, lambda step: model.loss(clips, step), config["trainer"]["tokenizer"])
    return model, lambda check: {"scalars": trainer.run()}


def train_transformer(tensors, config, space, variant):
    model = transformer.Twin(config, space)
    load_parameters(model, tensors)
    inputs = transformer.batch_of(tensors)
    trainer = Trainer(model, lambda step: model.loss(inputs), config["trainer"]["transformer"])
    return model, lambda check: {"scalars": trainer.run()}


def decode_tokens(tensors, config, space, variant):
    model = transformer.Twin(config, space)
    load_parameters(model, tensors)
    labels = transformer.batch_of(tensors)["labels"]
    return model, lambda check: {"scalars": {}, "ids": model.decode(labels, greedy=check).flatten().tolist()}


WORKLOADS = {
    "tokenizer-3d": (train_tokenizer, list(tokenizer.VARIANTS)),
    "transformer-masked": (train_transformer, ["scaled_dot_product_attention"]),
    "transformer-causal": (train_transformer, ["scaled_dot_product_attention"]),
    "decode-masked": (decode_tokens, ["scaled_dot_product_attention"]),
    "decode-causal": (decode_tokens, ["scaled_dot_product_attention"]),
}


class Session:
    def open(self, workload, file, config, space, threads):
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.build, variants = WORKLOADS[workload]
        self.tensors = read_safetensors(file)
        self.config = config
        self.space = space
        return {"variants": variants, "version": torch.__version__}

    def choose(self, variant):
        model, self.repeat = self.build(self.tensors, self.config, self.space, variant)
        return {"parameters": sum(p.numel() for p in model.parameters())}

    def run(self, count, check):
        seconds, outcomes = [], []
        for _ in range(count):
            begin = time.perf_counter()
            outcomes.append(self.repeat(check))
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds, "outcomes": outcomes}


def main():
    session = Session()
    idle = time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - idle
        command = json.loads(line)
        answer = getattr(session, command.pop("do"))(**command)
        print(json.dumps({**answer, "idle_cpu": idle}, allow_nan=False), flush=True)
        idle = time.process_time()


main()
