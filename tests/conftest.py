"""Fixtures for all tests, and the state that no test may leave changed."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OPENMM_CPU_THREADS", "2")

REPOSITORY = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--gpu-stand-in", action="store_true",
        help="tests marked gpu do without one: OpenMM's Reference platform and an emulated GPU take its place",
    )  # fmt: skip


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A file with a small float64 model of H, C, N, O with random weights: quick, smooth, physically nonsense."""
    import torch

    from mace_md.model.build import build_model
    from mace_md.model.hyperparameters import ModelConfig
    from mace_md.model.reading.checkpoint import save_model

    config = ModelConfig(
        atomic_numbers=(1, 6, 7, 8),
        r_max=3.5,
        num_bessel=4,
        max_ell=2,
        num_channels=4,
        max_L=1,
        correlation=(2, 2),
        radial_MLP=(8,),
        MLP_channels=4,
        avg_num_neighbors=(10.0, 10.0),
    )
    model = build_model(config, seed=7, dtype=torch.float64)
    return save_model(model, tmp_path_factory.mktemp("model") / "tiny.mace")


@pytest.fixture(scope="session")
def foreign_models(tmp_path_factory) -> Path:
    """A folder with one small `.model` file of mace-torch for each architecture (tests/data/make_models.py)."""
    import tarfile

    folder = tmp_path_factory.mktemp("models")
    with tarfile.open(REPOSITORY / "tests" / "data" / "models.tar.xz") as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # before 3.11.4
    return folder


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _default_dtype_is_left_alone():
    """Nothing in the package may change torch's global default precision."""
    import torch

    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)
    assert after == before
