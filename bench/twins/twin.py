"""The PyTorch side of the bench: reads one JSON command a line, answers with one JSON line.

{"do": "open", "workload": ..., "file": ..., "config": ..., "threads": n}  sizes, variants, versions
{"do": "choose", "variant": ...}  builds a variant from the initial weights
{"do": "run", "count": n}         runs n steps: the seconds and the outcome of each

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
from exchange import load_parameters, read_safetensors
from training import Trainer


class Session:
    def open(self, workload, file, config, threads):
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.workload = workload
        self.tensors = read_safetensors(file)
        self.config = config
        return {"variants": list(tokenizer.VARIANTS), "version": torch.__version__}

    def choose(self, variant):
        model, loss = tokenizer.build(self.tensors, self.config, variant)
        load_parameters(model, self.tensors)
        self.step = Trainer(model, loss, self.config["trainer"]["tokenizer"]).run
        return {"parameters": sum(p.numel() for p in model.parameters())}

    def run(self, count):
        seconds, outcomes = [], []
        for _ in range(count):
            begin = time.perf_counter()
            outcomes.append(self.step())
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
