"""Tests of the whole chain on a GPU; with --gpu-stand-in on OpenMM's Reference platform."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _platform(request, monkeypatch):
    if request.config.getoption("--gpu-stand-in"):
        monkeypatch.setattr(request.module, "PLATFORM", "Reference")
    elif not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
