"""What crosses from Tessera to a twin: initial weights and a batch, as one safetensors file.

Twins name their modules as Tessera names its scopes, so a parameter's name says which tensor is its own;
only the layouts differ (Tessera keeps channels last and kernels as [..., inputs, outputs]).
"""

import json
import struct

import numpy as np
import torch
from torch import nn

DTYPES = {"F32": np.float32, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}


def read_safetensors(path):
    """All tensors of a file by name."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        values = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(values[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = torch.from_numpy(array.copy())
    return tensors


def _own_name(module, leaf):
    """Tessera's name of a parameter that PyTorch calls `leaf`."""
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return {"weight": "scale", "bias": "shift"}[leaf]
    if isinstance(module, (nn.Conv3d, nn.Linear)):
        return {"weight": "kernel", "bias": "bias"}[leaf]
    return leaf


def _own_layout(module, leaf, tensor):
    """A tensor of Tessera in PyTorch's layout."""
    if leaf == "weight" and isinstance(module, nn.Conv3d):
        return tensor.permute(4, 3, 0, 1, 2)
    if leaf == "weight" and isinstance(module, nn.Linear):
        return tensor.t()
    return tensor


def load_parameters(model, tensors):
    """Give every parameter of a twin Tessera's initial value. Fails unless both have the same ones."""
    left = {name[len("model/") :] for name in tensors if name.startswith("model/")}
    with torch.no_grad():
        for path, module in model.named_modules():
            for leaf, parameter in module.named_parameters(recurse=False):
                name = "/".join([*path.split("."), _own_name(module, leaf)]).lstrip("/")
                source = _own_layout(module, leaf, tensors[f"model/{name}"])
                if source.shape != parameter.shape:
                    raise ValueError(f"{name}: {tuple(source.shape)} there, {tuple(parameter.shape)} here")
                parameter.copy_(source)
                left.remove(name)
    if left:
        raise ValueError(f"the twin lacks {len(left)} parameters: {', '.join(sorted(left)[:5])}")
