"""One training step in plain PyTorch, with the arithmetic of Tessera's: AdamW with decay on tensors of
rank 2 and more, clipping of the global gradient norm, and a moving average of the weights."""

import torch


class Trainer:
    """Repeats the step of one model on one batch.

    loss(step) -> (scalar loss, dict of scalar metrics)
    """

    def __init__(self, model, loss, options):
        if options["schedule"] != "constant" or options["warmup"] != 0 or options["accumulate"] != 1:
            raise ValueError("the twins train at a constant rate, one batch a step")
        self.parameters = list(model.parameters())
        self.loss = loss
        self.options = options
        self.step = 0
        self.average = [p.detach().clone() for p in self.parameters]
        groups = [
            {"params": [p for p in self.parameters if p.dim() >= 2]},
            {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=options["lr"],
            betas=(options["beta1"], options["beta2"]),
            eps=options["epsilon"],
            weight_decay=options["weight_decay"],
            fused=True,
        )

    def run(self):
        """One step; its metrics as numbers."""
        loss, metrics = self.loss(self.step)
        loss.backward()
        clip = self.options["clip_norm"]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip if clip > 0 else float("inf"), foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.options["ema_decay"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.step += 1
        numbers = {name: value.item() for name, value in metrics.items()}
        return {**numbers, "loss": loss.item(), "grad_norm": norm.item()}
