"""Checkpoints: mace-torch's numbers come back, our own format is exact, and what cannot be read is refused by name."""

import hashlib
import json
import lzma
import os
import random
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mace_md.errors import InputError
from mace_md.model.build import build_model
from mace_md.model.graph import Graph, single_graph
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE, predict
from mace_md.model.reading import checkpoint
from mace_md.model.reading.archive import read_archive
from mace_md.model.reading.checkpoint import describe_model, load_model, save_model
from mace_md.model.reading.mace_torch import read_mace_torch
from mace_md.model.reading.unpickle import Record, Refused
from mace_md.ops.neighbor_list import neighbor_list

SHARED = Path(__file__).parents[4] / "shared" / "models"
# What mace-torch gives is repeated to rounding in double precision: 1e-9 of the interaction energy and 1e-8 eV/A leave
# room for another order of summation, and none for a wrong constant. Single precision has 7 digits: 1e-4 eV/A.
ENERGY, FORCE, FORCE_FLOAT32 = 1e-9, 1e-8, 1e-4
with tarfile.open(Path(__file__).parents[2] / "data" / "models.tar.xz") as _archive:
    REFERENCE = json.load(_archive.extractfile("reference.json"))
KINDS = sorted(REFERENCE["results"])
STRUCTURES = sorted(REFERENCE["structures"])


def graph_of(model: MACE, structure: dict) -> Graph:
    dtype = model.embedding.dtype
    positions = torch.tensor(structure["positions"], dtype=torch.float64)
    periodic = structure["cell"] is not None
    cell = torch.tensor(structure["cell"] if periodic else [[0.0] * 3] * 3, dtype=torch.float64)
    edge_index, shifts = neighbor_list(positions, cell, periodic, model.r_max)
    known = model.atomic_numbers.tolist()
    species = torch.tensor([known.index(z) for z in structure["numbers"]])
    return single_graph(positions.to(dtype), species, edge_index, shifts, cell)


def interaction_energy(model: MACE, graph: Graph, total: torch.Tensor) -> float:
    return float(total) - float(model.atomic_energies[0, graph.species].sum())


# --- parity ---


@pytest.mark.parametrize("kind", KINDS)
def test_float64_repeats_mace_torch(kind, foreign_models):
    for head, by_structure in REFERENCE["results"][kind].items():
        model = load_model(foreign_models / f"{kind}.model", head=head, dtype="float64")
        for name, expected in by_structure.items():
            structure = REFERENCE["structures"][name]
            graph = graph_of(model, structure)
            found = predict(model, graph, stress=structure["cell"] is not None)
            energy = interaction_energy(model, graph, found.energy)
            assert energy == pytest.approx(expected["interaction_energy"], rel=ENERGY, abs=0), (head, name)
            assert float(found.energy) == pytest.approx(expected["energy"], rel=ENERGY, abs=0)
            expected_forces = torch.tensor(expected["forces"], dtype=torch.float64)
            torch.testing.assert_close(found.forces, expected_forces, rtol=0, atol=FORCE)
            assert found.forces.abs().max() > 1000 * FORCE, "a comparison of nothing with nothing"
            if expected["stress"] is not None:
                expected_stress = torch.tensor(expected["stress"], dtype=torch.float64)
                torch.testing.assert_close(found.stress[0], expected_stress, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_close_to_mace_torch(kind, foreign_models):
    for head, by_structure in REFERENCE["results"][kind].items():
        model = load_model(foreign_models / f"{kind}.model", head=head, dtype=torch.float32)
        for name, expected in by_structure.items():
            found = predict(model, graph_of(model, REFERENCE["structures"][name]))
            assert found.forces.dtype == torch.float32
            torch.testing.assert_close(found.forces, torch.tensor(expected["forces"]), rtol=0, atol=FORCE_FLOAT32)


@pytest.mark.parametrize("name, elements, hidden, r_max, dtype", [
    ("MACE_SPICE", "H Li C N O F Na Mg P S Cl K Ca Br I", (32, 0), 4.5, "float32"),
    ("ani500k_small_CC", "H C N O", (64, 0), 5.0, "float64"),
    ("ec_emc_mace01_swa", "H C O", (32, 0), 4.0, "float64"),
    ("ec_emc_mace02_com1_swa", "H C O", (16, 0), 4.0, "float64"),
    ("gesbte_64x0e_64x1o", "Ge Sb Te", (64, 1), 5.0, "float64"),
])  # fmt: skip
def test_real_checkpoints_load(name, elements, hidden, r_max, dtype):
    from ase.data import chemical_symbols

    path = SHARED / f"{name}.model"
    if not path.exists():
        pytest.skip("the shared models are not here")
    model = load_model(path)
    config = model.config
    assert " ".join(chemical_symbols[z] for z in config.atomic_numbers) == elements
    assert ((config.num_channels, config.max_L), config.r_max, model.info.dtype) == (hidden, r_max, dtype)
    assert model.embedding.dtype == getattr(torch, dtype)


def test_dtype_defaults_to_the_file(foreign_models):
    model = load_model(foreign_models / "off_L1_float32.model")
    assert model.embedding.dtype == torch.float32 and model.atomic_energies.dtype == torch.float64
    assert load_model(foreign_models / "off_L1.model").embedding.dtype == torch.float64
    with pytest.raises(InputError, match="float16"):
        load_model(foreign_models / "off_L1.model", dtype="float16")


def test_old_format_has_plain_numbers_where_new_files_have_buffers(foreign_models):
    root = read_archive("old", (foreign_models / "old_format.model").read_bytes()).root
    assert type(root.state["atomic_numbers"]) is list and type(root.state["r_max"]) is float
    assert "heads" not in root.state
    assert load_model(foreign_models / "old_format.model").config.heads == ("Default",)


# --- heads and origin ---


def test_several_heads_must_be_chosen_from(foreign_models):
    path = foreign_models / "heads.model"
    with pytest.raises(InputError, match="several heads.*pbe, wb97m"):
        load_model(path)
    with pytest.raises(InputError, match="no head 'b3lyp'; its heads: pbe, wb97m"):
        load_model(path, head="b3lyp")
    with pytest.raises(InputError, match="no head 'pbe'; its heads: Default"):
        load_model(foreign_models / "off_L0.model", head="pbe")
    model = load_model(path, head="wb97m")
    assert model.config.heads == ("wb97m",)
    assert (model.info.head, model.info.heads) == ("wb97m", ("pbe", "wb97m"))


def test_info_says_where_a_model_comes_from(foreign_models):
    path = foreign_models / "off_L0.model"
    info = load_model(path).info
    assert (info.name, info.path, info.licence) == ("off_L0", str(path), "unknown")
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


# --- our own format ---


@pytest.mark.parametrize("kind", ["off_L1", "off_L1_float32", "mpa0", "soft_gaussian", "three_layers"])
def test_own_format_is_exact(kind, foreign_models, tmp_path):
    model = load_model(foreign_models / f"{kind}.model")
    path = save_model(model, tmp_path / "copy.mace", provenance={"epochs": 7})
    copy = load_model(path)
    assert copy.config == model.config
    assert copy.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(copy.state_dict().values(), model.state_dict().values(), strict=True))
    assert copy.info == replace(model.info, path=str(path)), "a copy remembers its source"
    structure = REFERENCE["structures"]["crystal"]
    graph = graph_of(model, structure)
    assert torch.equal(predict(copy, graph).forces, predict(model, graph).forces)
    assert describe_model(path)[2] == {"epochs": 7}
    assert b"pickle" not in path.read_bytes() and not zipfile.is_zipfile(path)


def test_a_model_made_here_can_be_saved(tmp_path):
    config = ModelConfig(atomic_numbers=(1, 8), r_max=3.0, max_ell=1, num_channels=2, max_L=0, correlation=(2, 1))
    model = build_model(config, seed=1)
    path = save_model(model, tmp_path / "new.mace")
    loaded = load_model(path)
    assert torch.equal(loaded.embedding, model.embedding)
    assert (loaded.info.name, loaded.info.sha256) == ("new", hashlib.sha256(path.read_bytes()).hexdigest())


def test_saving_never_replaces_a_file_by_accident(foreign_models, tmp_path):
    model = load_model(foreign_models / "last_readout.model")
    path = tmp_path / "model.mace"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        save_model(model, path)
    assert path.read_text() == "precious"
    save_model(model, path, overwrite=True)
    assert load_model(path).config == model.config


def test_a_failed_save_leaves_the_old_file(foreign_models, tmp_path, monkeypatch):
    model = load_model(foreign_models / "last_readout.model")
    path = tmp_path / "model.mace"
    path.write_text("precious")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, path, overwrite=True)
    assert path.read_text() == "precious" and os.listdir(tmp_path) == ["model.mace"]


@pytest.fixture
def own_file(foreign_models, tmp_path) -> Path:
    return save_model(load_model(foreign_models / "last_readout.model"), tmp_path / "model.mace")


def edit_header(path: Path, edit) -> Path:
    """Write the file again with `edit(header)` in its JSON text."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["mace_md"])  # noqa: SIM118
    text = edit(header, tensors)
    save_file(tensors, path, metadata={"mace_md": text if isinstance(text, str) else json.dumps(header)})
    return path


@pytest.mark.parametrize("edit, message", [
    (lambda header, tensors: "{not json", "no readable header"),
    (lambda header, tensors: "[1, 2]", "no readable header"),
    (lambda header, tensors: header.update(format_version=99), "format version 99"),
    (lambda header, tensors: header.pop("config") and None, "damaged"),
    (lambda header, tensors: header["config"].update(num_channels=5), "do not fit the hyper-parameters"),
    (lambda header, tensors: header["config"].update(max_ell=1), "fit|damaged"),
    (lambda header, tensors: header["config"].update(colour="red"), "colour"),
    (lambda header, tensors: header["config"].update(gate="swish"), "swish"),
    (lambda header, tensors: header["config"].update(r_max="far"), "damaged"),
    (lambda header, tensors: header.update(atomic_energies=[[0.0]]), "E0s of shape"),
    (lambda header, tensors: header.update(atomic_energies=[["a"]]), "damaged"),
    (lambda header, tensors: header["info"].update(dtype="int8"), "int8"),
    (lambda header, tensors: tensors.pop("embedding") is None or None, "embedding"),
    (lambda header, tensors: tensors["embedding"].fill_(float("nan")) is None or None, "not finite"),
    (lambda header, tensors: tensors["products.0.contraction.factors"].fill_(999) is None or None, "damaged"),
])  # fmt: skip
def test_damaged_own_files_get_one_clear_line(edit, message, own_file):
    path = edit_header(own_file, edit)
    with pytest.raises(InputError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


def test_other_safetensors_and_truncated_files_are_refused(own_file, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, other)
    with pytest.raises(InputError, match="not one that mace-md wrote"):
        load_model(other)
    content = own_file.read_bytes()
    for n in (9, 100, len(content) // 2, len(content) - 1):
        own_file.write_bytes(content[:n])
        with pytest.raises(InputError, match="model.mace: "):
            load_model(own_file)


# --- what cannot be read ---


def refused(archive) -> str:
    with pytest.raises((Refused, InputError)) as error:
        read_mace_torch(archive)
    return str(error.value)


@pytest.fixture
def archive(foreign_models):
    """The records of a model, to be spoiled."""
    path = foreign_models / "mpa0.model"
    return read_archive(path, path.read_bytes())


def module(archive, path: str) -> Record:
    record = archive.root
    for name in path.split("."):
        record = record.state["_modules"][name]
    return record


@pytest.mark.parametrize("path, name", [
    ("interactions.0", "mace.modules.blocks.RealAgnosticAttResidualInteractionBlock"),
    ("readouts.1", "mace.modules.blocks.GeneralNonLinearBiasReadoutBlock"),
    ("readouts.0", "mace.modules.blocks.LinearDipoleReadoutBlock"),
    ("radial_embedding.bessel_fn", "mace.modules.radial.WaveletBasis"),
    ("radial_embedding.distance_transform", "mace.modules.radial.OtherTransform"),
    ("interactions.0.conv_tp_weights", "mace.modules.radial.RadialMLP"),
    ("interactions.1.linear_up", "e3nn.nn.Other"),
    ("interactions.1.conv_tp_weights.layer0", "mace.modules.lora.LoRAFCLayer"),
])  # fmt: skip
def test_unknown_blocks_are_refused_by_name(archive, path, name):
    module(archive, path).name = name
    assert name.rsplit(".", 1)[-1] in refused(archive)


@pytest.mark.parametrize("name", ["MACELES", "PolarMACE", "AtomicDipolesMACE", "EnergyDipolesMACE", "BOTNet"])
def test_other_models_are_refused_by_name(archive, name):
    archive.root.name = f"mace.modules.extensions.{name}"
    assert name in refused(archive)


def test_additional_blocks_and_settings_are_refused_by_name(archive):
    modules, state = archive.root.state["_modules"], archive.root.state
    modules["joint_embedding"] = Record("mace.modules.embeddings.GenericJointEmbedding")
    assert "joint_embedding (GenericJointEmbedding)" in refused(archive)
    del modules["joint_embedding"]
    state["use_so3"] = True
    assert "use_so3" in refused(archive)
    state["use_so3"] = False
    read_mace_torch(archive)  # what was spoiled is mended


def test_weights_laid_out_for_an_accelerator_are_refused(archive):
    config = Record("mace.modules.wrapper_ops.CuEquivarianceConfig", (), {"enabled": True, "layout_str": "ir_mul"})
    module(archive, "products.0").state["cueq_config"] = config
    assert "cueq_config" in refused(archive)


def test_unnatural_parity_is_refused(archive):
    linear = module(archive, "products.0.linear")
    linear.state["irreps_out"] = "8x0e+8x1e"
    assert "8x1e" in refused(archive) and "natural parity" in refused(archive)


def test_unequal_channels_are_refused(archive):
    module(archive, "products.0.linear").state["irreps_out"] = "8x0e+4x1o"
    assert "same channels" in refused(archive)


def test_another_normalisation_of_the_activation_is_refused(archive):
    module(archive, "interactions.0.conv_tp_weights.layer0.act").state["cst"] = 1.5
    assert "normalised by 1.5" in refused(archive)


@pytest.mark.parametrize("path, setting, value, message", [
    ("spherical_harmonics", "normalization", "norm", "component"),
    ("products.1", "use_sc", False, "skip connection of its layer 1"),
    ("radial_embedding.cutoff_fn", "r_max", 3.0, "radius of its cutoff function is 3.0"),
    ("pair_repulsion_fn", "p", 9, "exponent of its ZBL cutoff is 9"),
    ("interactions.0.conv_tp_weights.layer1", "var_in", 2, "variances"),
])  # fmt: skip
def test_settings_that_are_taken_for_granted_are_checked(archive, path, setting, value, message):
    block = module(archive, path)
    block.state["_buffers"].pop(setting, None)
    block.state[setting] = value
    assert message in refused(archive)


def test_missing_and_misshapen_parts_are_refused(archive):
    contraction = module(archive, "products.0.symmetric_contractions.contractions.0")
    weight = contraction.state["_parameters"].pop("weights_max")
    assert "weights_max" in refused(archive)
    contraction.state["_parameters"]["weights_max"] = weight
    embedding = module(archive, "node_embedding.linear").state["_parameters"]
    embedding["weight"] = weight
    assert "numbers where its shape asks for" in refused(archive)
    del archive.root.state["_modules"]["products"]
    assert "no products" in refused(archive)


def test_spoiled_records_never_escape(foreign_models, tmp_path):
    """Whatever stands in the records: a model, or one clear line; never another exception."""
    path = foreign_models / "last_readout.model"
    rng = random.Random(5)
    junk = [None, -1, 10**30, 1.5, "x", b"x", (), [[]], {}, Record("mace.modules.blocks.X"), True, float("nan")]
    outcomes = set()
    for _ in range(150):
        archive = read_archive(path, path.read_bytes())
        record = archive.root
        for _ in range(rng.randrange(8)):
            below = [child for child in record.state.get("_modules", {}).values() if type(child) is Record]
            record = rng.choice(below) if below else record
        for _ in range(3):
            place = rng.choice([record.state, *(v for v in record.state.values() if type(v) is dict and v)])
            place[rng.choice(list(place) or ["x"])] = rng.choice(junk)
        try:
            checkpoint._interpret_foreign(path, archive)
            outcomes.add("read")
        except InputError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_modules_that_contain_themselves_are_refused(archive):
    readouts = module(archive, "readouts")
    readouts.state["_modules"]["0"] = readouts
    assert refused(archive)


def test_files_without_a_whole_model_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(InputError, match="state_dict"):
        load_model(path)
    torch.save({"model": {}, "optimizer": {}, "lr_scheduler": {}}, path)
    with pytest.raises(InputError, match="training checkpoint"):
        load_model(path)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(InputError, match="Linear; the models that can be read are MACE"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="a list"):
        load_model(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "nothing.model")
    with pytest.raises(InputError, match="no such file"):
        load_model("nothing.model")
    with pytest.raises(InputError, match="folder"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="Did you mean mace-off23-small"):
        load_model("mace-off23-smal")


def test_compressed_copies_are_refused_clearly(foreign_models, tmp_path):
    path = tmp_path / "copy.model"
    path.write_bytes(lzma.compress((foreign_models / "last_readout.model").read_bytes()))
    with pytest.raises(InputError, match="not a torch model file"):
        load_model(path)


@pytest.mark.parametrize("name", ["mylab.potentials.ScaleShiftMACE", None])
def test_the_class_of_a_fork_is_said(foreign_models, monkeypatch, caplog, name):
    """A class with the name of one of mace-torch's in another module is read, with a note; mace-torch's own is not."""
    from mace_md.model.reading import checkpoint

    path = sorted(foreign_models.rglob("*.model"))[0]
    read = checkpoint.read_archive

    def of_a_fork(*given):
        archive = read(*given)
        if name is not None:
            object.__setattr__(archive.root, "name", f"{name.rpartition('.')[0]}.{archive.root.kind}")
        return archive

    monkeypatch.setattr(checkpoint, "read_archive", of_a_fork)
    with caplog.at_level("INFO", "mace_md"):
        load_model(path)
    assert ("its class is mylab.potentials." in caplog.text) == (name is not None)
