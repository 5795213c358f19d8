"""The forecast of memory against what torch allocates, and what is refused."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from water_box import water_pdb

from mace_md.errors import InputError
from mace_md.md.stepping.memory import check_memory, forecast, pytorch_bytes
from mace_md.model.build import build_model
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.potential import make_potential
from mace_md.ops.energy_forces import LIBRARY
from mace_md.structures.molecules import pairs_within
from mace_md.structures.structure import read_structure


def shaped(**changes):
    config = {"num_channels": 16, "r_max": 4.5, "max_L": 1, "max_ell": 2, "correlation": (2, 2)} | changes
    return build_model(ModelConfig(atomic_numbers=(1, 8), avg_num_neighbors=(30.0, 30.0), **config), seed=0)


def allocated(potential, positions, box) -> int:
    """Peak of torch's allocations on the CPU in one evaluation."""
    potential(positions, box)  # builds the neighbour list
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        potential(positions, box)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(("max_L", "channels"), [(0, 16), (1, 48)])
def test_the_forecast_is_what_torch_allocates(tmp_path, max_L, channels):
    """With the peak in layer 1 (few channels) and in layer 2."""
    structure = read_structure(water_pdb(tmp_path / "water.pdb"))
    model = shaped(max_L=max_L, num_channels=channels).float()
    potential, _ = make_potential(model, structure.atomic_numbers, periodic=True, kernels="reference")
    peak = allocated(potential, torch.tensor(structure.positions), torch.tensor(structure.box))
    assert forecast(structure, model, None, r_max=4.5, skin=0.5) == pytest.approx(peak, rel=0.12)


def test_float64_takes_twice_as_much_and_atoms_add_up():
    model = shaped(max_ell=3, correlation=(3, 3))
    assert pytorch_bytes(model, 100, 5000) == pytest.approx(2 * pytorch_bytes(model.float(), 100, 5000), abs=8)
    assert pytorch_bytes(model, 200, 10000) == pytest.approx(2 * pytorch_bytes(model, 100, 5000), abs=8)


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native kernels were not built")
def test_native_kernels_take_memory_for_atoms_and_their_neighbours(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "water.pdb"))
    potential, _ = make_potential(shaped().float(), structure.atomic_numbers, periodic=True, kernels="native")
    try:
        found = forecast(structure, None, potential.blob, r_max=4.5, skin=0.5)
    except AttributeError:
        pytest.skip("the native library is older than its sources: python setup.py build_ext --inplace")
    candidates = len(pairs_within(structure.positions, structure.box, 0.5)[0])
    assert found > 8 * candidates + 4 * 81 * 16 * 9  # an index and a shift of each, and one set of features
    assert found < 10 * pytorch_bytes(shaped().float(), 81, candidates)


def test_what_does_not_fit_is_refused_with_what_to_change():
    assert check_memory(10**9, 80 * 10**9, "the model") == (
        "memory: the model will need about 1 GB of the GPU, 80 GB are free"
    )
    assert check_memory(70 * 10**9, 80 * 10**9, "it").startswith("warning: memory: it will need about 70 GB")
    with pytest.raises(InputError, match="--dtype float32.*a smaller box, --kernels native"):
        check_memory(100 * 10**9, 80 * 10**9, "it")
