"""The documents say what is so: code runs, commands parse, tables and links agree with the source."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mace_md import cli
from mace_md import config as configs
from mace_md.config import load_config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "systems" / "README.md",
    *(ROOT / "docs").rglob("*.md"),
]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(path.read_text()) if kind == language]


COMMANDS = sorted(
    {
        line.strip()
        for path in DOCUMENTS
        for line in path.read_text().splitlines()
        if line.strip().startswith("mace-md ") and not line.strip().startswith("mace-md COMMAND")
    }
)


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny_model):
    """A folder like the checkout, with a finished run of water in it; named models are the tiny one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systems").symlink_to(ROOT / "systems")
    return tmp_path


def test_there_are_commands_in_the_documents():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_the_documents_parse(command, workplace):
    """Options exist and structures are there. What the command says about files of an earlier run is not checked."""
    words = shlex.split(command.partition(" > ")[0])[1:]
    if "--print-config" in words:
        assert cli.main(words) == 0
        return
    (workplace / "water-run").mkdir()
    (workplace / "water-run" / "run.toml").write_text('structure = "topology.pdb"\nmodel = "mace-off23-small"\n')
    config = load_config(getattr(configs, cli.COMMANDS[words[0]][1]), words[1:])
    structure = getattr(config, "structure", None)
    if structure is not None and "water-run" not in str(structure):
        assert structure.is_file()


def test_the_python_of_the_readme_runs(workplace, tiny_model, monkeypatch):
    """All python blocks in order, as one script in its own process, after the command that makes the trajectory."""
    run = ["run", "systems/water/water.pdb", "--model", str(tiny_model), "--steps", "2", "--trajectory-interval", "1"]
    assert cli.main([*run, "--check", "skip", "--no-minimize", "--kernels", "reference", "--quiet"]) == 0
    code = "\n".join(blocks(ROOT / "README.md", "python")).replace('"mace-md-small"', repr(str(tiny_model)))
    assert "make_system" in code and "mdtraj.load" in code and str(tiny_model) in code
    code += "\nassert system.getNumParticles() == 192 and trajectory.n_frames == 2\n"
    code += "force = mace_md.make_force(pdb.topology, model)\n"
    code += "import openmm\nassert isinstance(force, openmm.Force)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_tables_of_options_are_those_of_the_source():
    updated = runpy.run_path(str(ROOT / "docs" / "update_tables.py"))["updated"]
    pages = [path.read_text() for path in sorted((ROOT / "docs" / "guide").glob("*.md"))]
    assert all(updated(page) == page for page in pages), "run: python docs/update_tables.py"
    shown = [name for page in pages for name in re.findall(r"<!-- options of (\w+) -->", page)]
    tables = ["ExternalForce", "Restraint", "Stage"]  # of a run file
    assert sorted(shown) == sorted([*tables, *(class_name for _, class_name, _ in cli.COMMANDS.values())])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    prose = re.sub(r"```.*?```|`[^`]*`|^    .*?$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)  # no code
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        destination = path if not file else (path.parent / file)
        assert destination.exists(), f"{name_of(path)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", destination.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_the_map_of_the_readme_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Map") : text.index("## Use something else")]
    named = re.findall(r"`([\w./]+)`", table)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "mace_md" / name).exists(), name


def test_ci_reads_its_commands_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    lines = (ROOT / "README.md").read_text().splitlines()
    for start in ("pip install -e ", "pytest"):
        assert f"'^{start}" in script
        assert any(line.startswith(start) for line in lines)


def test_the_extras_of_the_install_line_exist():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install -e ")]
    extras = re.search(r"\[(.*)\]", line)[1].split(",")
    assert set(extras) <= set(setup["options.extras_require"]) and extras == ["cpu", "test"]


def test_every_command_has_its_module():
    for module, _, _ in cli.COMMANDS.values():
        assert callable(importlib.import_module(module).main)
