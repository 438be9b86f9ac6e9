"""Makes the weight files of this folder with PyTorch and NumPy, and expected.json with their values.
python3 make.py"""
import json, os
from collections import OrderedDict
import numpy as np, torch

here = os.path.dirname(os.path.abspath(__file__))
at = lambda name: os.path.join(here, name)
values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8 - 1
state = OrderedDict([
    ("block.weight", torch.nn.Parameter(values)),
    ("block.turned", values.permute(2, 0, 1)),
    ("block.part", values[1, 1:, ::2]),
    ("half", values[0].half()),
    ("brain", values[0].bfloat16()),
    ("double", values[0].double()),
    ("steps", torch.tensor(-7)),
    ("bytes", torch.tensor([0, 255], dtype=torch.uint8)),
    ("flags", torch.tensor([True, False])),
    ("empty", torch.zeros(0, 3)),
])
torch.save({"epoch": 3, "state_dict": state, "note": "wrapped"}, at("zip.pt"))
torch.save(state, at("legacy.pth"), _use_new_zipfile_serialization=False)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1)
        self.norm = torch.nn.BatchNorm2d(3)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.arange(p.numel(), dtype=torch.float32).reshape(p.shape) + i)

    def forward(self, x):
        return self.norm(self.conv(x))


net = Net().eval()
torch.save(net, at("module.pt"))
torch.jit.save(torch.jit.script(net), at("script.pt"))
np.savez_compressed(at("arrays.npz"), a=values.numpy(), b=np.asfortranarray(values[0].numpy()), c=np.array([1, -2], dtype=np.int64))
np.savez(at("stored.npz"), a=values.numpy())
flat = lambda t: dict(shape=list(t.shape), values=t.float().reshape(-1).tolist())
json.dump(dict(state={k: flat(v.detach()) for k, v in state.items()}, module={k: flat(v) for k, v in net.state_dict().items()}, arrays=dict(a=flat(values), b=flat(values[0]), c=flat(torch.tensor([1, -2])))), open(at("expected.json"), "w"), indent=1)
