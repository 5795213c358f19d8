"""The picture of the imports: arrows point one way, and importing the package does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mace_md"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted(path.stem for path in (PACKAGE / "commands").glob("[!_]*.py"))
# Lower layers first: a room imports from itself and from those before it.
LAYERS = [
    *("errors units", "options", "config", "console child", "provenance output stopping"),
    *("ops", "model structures analysis", "training md", "hosts", "commands", "cli", "__main__"),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
# Wings of a room, lower ones first. The files beside the wings of a room may be below one wing and above another.
WINGS = {
    "options": "declare reading writing",
    "model": "families reading fast",
    "structures": "formats",
    "analysis": "observables report",
    "md": "forces dynamics files watch stepping many",
}
HEAVY = {"torch", "openmm", "e3nn", "ase", "mdtraj", "openmmtorch", "safetensors", "mace"}
STARTS_QUICKLY = "__init__ __main__ cli errors units provenance commands/doctor".split()
STARTS_QUICKLY += sorted(
    str(path.relative_to(PACKAGE).with_suffix(""))
    for room in ("config", "options")
    for path in (PACKAGE / room).glob("*.py")
)


def imports(path: Path, top_only: bool = False) -> list[str]:
    """Every module a file imports, by full name; `from mace_md import x` counts as mace_md.x."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = [f"mace_md.{alias.name}" for alias in node.names] if node.module == "mace_md" else []
            found += inner or [node.module]
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """'md.files.restart' for mace_md/md/files/restart.py; a package is called by its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def targets(path: Path) -> set[str]:
    """The modules of the package that a file imports, less the name of the package: {"model.mace", "errors", ...}."""
    modules = {module_of(file) for file in FILES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mace_md"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("mace_md.")
                found.add(name if name in modules else name.rpartition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("mace_md.") for alias in node.names if alias.name.startswith("mace_md.")}
    return found - {"", "__version__"}


def own_targets(path: Path) -> set[str]:
    """First parts of the mace_md modules that a file imports: {'model', 'errors', ...}."""
    return {name.split(".")[0] for name in targets(path)}


def wing_of(module: str) -> str:
    """'md.files' for md.files.restart; a file beside the wings of its room stands for itself."""
    room, *rest = module.split(".")
    return f"{room}.{rest[0]}" if rest else room


def test_the_picture_names_what_there_is():
    rooms = {layer_of(path) for path in FILES} - {"__init__"}
    assert rooms == set(LEVEL)
    for room, wings in WINGS.items():
        for wing in wings.split():
            place = PACKAGE / room / wing
            assert place.with_suffix(".py").exists() or list(place.glob("[!_]*.py")), f"{room}/{wing} is not there"
        folders = {path.parent.name for path in (PACKAGE / room).glob("*/*.py")}
        assert folders <= set(wings.split()), f"{room} has wings that nobody ordered: {folders - set(wings.split())}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    layer = layer_of(path)
    if layer == "__init__":
        return
    for target in own_targets(path) - {layer}:
        assert LEVEL[target] < LEVEL[layer] or (layer, target) == ("units", "errors"), f"{layer} imports {target}"
    wings = WINGS.get(layer, "").split()
    own = wing_of(module_of(path)).removeprefix(f"{layer}.")
    if own in wings:
        for target in targets(path):
            other = wing_of(target).removeprefix(f"{layer}.")
            if target.startswith(f"{layer}.") and other in wings:
                assert wings.index(other) <= wings.index(own), f"{layer}: {own} imports {other}"


def test_no_cycle_over_rooms_and_wings():
    reached = {}
    for path in FILES:
        if layer_of(path) != "__init__":
            own = wing_of(module_of(path))
            reached.setdefault(own, set()).update(wing_of(target) for target in targets(path))
            reached[own].discard(own)
    assert sum(map(len, reached.values())) > 100  # the picture was read
    finished: list[str] = []
    while len(finished) < len(reached):
        free = [name for name, needs in reached.items() if name not in finished and needs <= {*finished, name}]
        known = [name for name in reached if name not in finished]
        assert free, f"a cycle among {known}"
        finished += free


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_engine_has_its_place(path):
    roots = {name.split(".")[0] for name in imports(path)}
    name = str(path.relative_to(PACKAGE))
    assert "mace" not in roots, "mace-torch is an oracle of the tests, never a dependency"
    if layer_of(path) in ("model", "ops", "training"):
        assert "openmm" not in roots, f"{name} imports openmm"
        assert "structures" not in own_targets(path), f"{name} imports structures, and OpenMM with them"
    if layer_of(path) == "analysis":
        assert not roots & {"torch", "openmm"}
    if name != "md/forces/model.py":
        assert "openmmtorch" not in roots, f"{name} imports openmmtorch"
    if name not in ("md/forces/model.py", "model/artifact.py"):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        forbidden = {"torch.jit.script", "torch.jit.load", "torch.jit.save", "torch.jit.freeze", "torch.jit.trace"}
        assert not calls & forbidden, f"{name} compiles TorchScript: {calls & forbidden}"


@pytest.mark.parametrize("name", STARTS_QUICKLY)
def test_modules_of_the_command_line_import_nothing_heavy(name):
    roots = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
    assert not roots & HEAVY


def test_no_module_is_a_drawer():
    drawers = {"utils", "tools", "helpers", "common", "misc"}
    assert not {path.stem for path in FILES} & drawers
    assert not {path.name for path in PACKAGE.rglob("*") if path.is_dir()} & drawers


def test_import_loads_nothing_and_changes_nothing():
    code = """
import os, sys
before = dict(os.environ)
import mace_md
heavy = {"torch", "openmm", "e3nn", "ase", "mdtraj"} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "label", "models"])
def test_commands_of_torch_alone_do_not_load_openmm(command):
    code = f"import sys, mace_md.commands.{command}; assert not {{'openmm', 'openmmtorch'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_loading_every_module_leaves_torch_as_it_was():
    modules = [
        ".".join(("mace_md", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py"
    ]
    code = f"""
import os, importlib
before = dict(os.environ)
import torch
threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
after_torch = dict(os.environ)
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "openmmml":  # optional: its users have it
            raise
assert torch.get_default_dtype() == dtype and torch.get_num_threads() == threads
changed = set(os.environ.items()) ^ set(after_torch.items())
assert not any("MACE" in key or "TORCH" in key for key, _ in changed), changed
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_public_names_are_found():
    import mace_md

    for name in mace_md.__all__:
        assert getattr(mace_md, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mace_md.nothing  # noqa: B018
