"""Fixtures for all tests: one thread each, so that the suite behaves the same on any machine."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OPENMM_CPU_THREADS", "2")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    import torch

    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _default_dtype_is_left_alone():
    """Nothing in the package may change torch's global default precision."""
    import torch

    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)
    assert after == before
