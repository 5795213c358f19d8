"""In the place of a GPU, for tests that use torch.cuda itself (--gpu-stand-in): tensors stay on the CPU, the native op
runs on the emulated GPU, and a graph is a list of operations that are made again on the same tensors."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mace_md.ops.energy_forces import DeviceStatus


def emulated_energy_forces(positions, box, types, blob, state):
    return torch.ops.mace_md.emulated_energy_forces(positions, box, types, blob, state)


def emulated_status(state):
    return DeviceStatus(*torch.ops.mace_md.emulated_status(state, False).tolist())


class Stream:
    def wait_stream(self, other) -> None:
        assert isinstance(other, Stream)


class Graph(TorchDispatchMode):
    """What torch.cuda.CUDAGraph does: `replay` writes new results into the tensors of the captured ones."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, results))
        return results

    def replay(self) -> None:
        for func, args, kwargs, results in self.operations:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_flatten(results)[0], tree_flatten(again)[0], strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


def take_the_place_of_cuda(monkeypatch, module, emulation) -> None:
    """Until the end of a test: `module` is one that imports `energy_forces` and calls torch.cuda."""
    cuda = torch.cuda

    @contextlib.contextmanager
    def capturing():
        emulation.capturing = True
        try:
            yield
        finally:
            emulation.capturing = False

    class Captured(Graph):
        def replay(self) -> None:
            with capturing():
                super().replay()

    @contextlib.contextmanager
    def graph(captured):
        with capturing(), captured:
            yield

    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "current_stream", Stream)
    monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "synchronize", lambda: None)
    monkeypatch.setattr(cuda, "CUDAGraph", Captured)
    monkeypatch.setattr(cuda, "graph", graph)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(module, "ENGINE", "emulated")
    monkeypatch.setattr(module, "energy_forces", emulated_energy_forces)
    monkeypatch.setattr(module, "device_status", emulated_status)
