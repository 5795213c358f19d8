"""What only a GPU can show of the native op: CUDA graphs as torch captures them, real concurrency, streams."""

import numpy as np
import pytest
import torch
from gpu_stand_in import take_the_place_of_cuda
from native import TRICLINIC, Native, make_model, needs_library, random_atoms

from mace_md.ops.energy_forces import device_status, energy_forces, new_state

pytestmark = [needs_library, pytest.mark.gpu]
ENGINE = "cuda"


@pytest.fixture(autouse=True)
def _gpu(request, monkeypatch):
    if request.config.getoption("--gpu-stand-in"):
        take_the_place_of_cuda(monkeypatch, request.module, request.getfixturevalue("emulation"))
    elif not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


def make_native(kind="vectors", dtype=torch.float32):
    return Native(make_model(kind), dtype, engine=ENGINE)


def capture(arguments):
    """A graph of one evaluation, after the evaluations on a side stream that capturing needs; and its results."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            energy_forces(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = energy_forces(*arguments)
    return graph, results


def test_replays_of_a_graph_follow_the_positions():
    rng = np.random.default_rng(0)
    native, atoms = make_native(), random_atoms(40, cell=np.eye(3) * 8.0)
    arguments = native.arguments(atoms)
    graph, (energy, forces, _) = capture(arguments)
    for _ in range(20):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        arguments[0].copy_(native.arguments(atoms)[0])
        graph.replay()
        expected = energy_forces(*arguments[:4], new_state().cuda())
        assert torch.allclose(energy, expected[0], rtol=0, atol=1e-3)  # kJ/mol
        assert (forces - expected[1]).abs().max() < 1e-5 * expected[1].abs().max()
    status = device_status(native.state)
    assert status.problems == 0 and status.n_builds > 1


def test_a_graph_whose_list_overflows_is_loud():
    native, wide = make_native("scalars"), random_atoms(8, cell=np.eye(3) * 6.0, spacing=1.8)
    dense = wide.copy()
    dense.set_cell(np.eye(3) * 2.0, scale_atoms=True)
    arguments = native.arguments(wide)
    graph, (energy, forces, _) = capture(arguments)
    positions, box = native.arguments(dense)[:2]
    arguments[0].copy_(positions), arguments[1].copy_(box)
    graph.replay()
    assert energy.isnan() and forces.isnan().all()
    assert device_status(native.state).problems == 1
    assert energy_forces(*arguments)[0].isfinite()  # outside of a graph it grows


def test_repeated_evaluations_agree_to_the_last_bit():
    native, atoms = make_native("density"), random_atoms(200, cell=np.eye(3) * 14.0)
    arguments = native.arguments(atoms)
    first = energy_forces(*arguments)
    for _ in range(20):
        for found, expected in zip(energy_forces(*arguments[:4], new_state().cuda()), first, strict=True):
            assert torch.equal(found, expected)


def test_modules_on_two_streams():
    models = [make_native("scalars") for _ in range(2)]
    atoms = random_atoms(cell=TRICLINIC)
    expected = models[0](atoms)[1]
    streams = [torch.cuda.Stream() for _ in models]
    arguments = [native.arguments(atoms) for native in models]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for stream, argument in zip(streams, arguments, strict=True):
            with torch.cuda.stream(stream):
                results.append(energy_forces(*argument)[1])
    torch.cuda.synchronize()
    for forces in results:
        assert np.abs(forces.cpu().numpy() / 964.8533212331002 - expected).max() < 1e-6
