"""Options: a flag, a file and a default give the same value, and what cannot be right is refused by name."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from mace_md import config as configs
from mace_md.config import (
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    LabelConfig,
    ModelsConfig,
    RunConfig,
    TrainConfig,
    load_config,
    options_table,
    template,
    to_toml,
)
from mace_md.errors import InputError, UsageError
from mace_md.options.declare import flag, groups_of, has_flag, is_table, label_of, option, options_of
from mace_md.options.reading import help_text, settle
from mace_md.units import parse_quantity

REQUIRED = ["water.pdb", "--model", "tiny.mace"]
ALL = [RunConfig, TrainConfig, ExportConfig, EvaluateConfig, LabelConfig, ModelsConfig, DoctorConfig]


def run_config(*words: str) -> RunConfig:
    return load_config(RunConfig, [*REQUIRED, *words])


def from_file(folder: Path, text: str, *words: str) -> RunConfig:
    path = folder / "run.toml"
    path.write_text(text)
    return load_config(RunConfig, [*REQUIRED, "--config", str(path), *words])


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "text, unit, expected",
    [
        ("300", "K", 300.0),
        ("1bar", "bar", 1.0),
        ("0.1 GPa", "bar", 1000.0),
        ("1atm", "bar", 1.01325),
        ("101325 Pa", "bar", 1.01325),
        ("1ns", "ps", 1000.0),
        ("2.5e-1 ps", "fs", 250.0),
        ("0.5fs", "fs", 0.5),
        ("2 nm", "A", 20.0),
        ("72 mN/m", "bar*nm", 720.0),  # 1 mN/m = 1e-3 J/m2, 1 bar nm = 1e-4 J/m2
        ("90min", "h", 1.5),
    ],
)
def test_quantities(text, unit, expected):
    assert parse_quantity(text, unit) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("text", ["2 nm", "fast", "", "1 2", "1e", "--3"])
def test_quantities_of_another_kind_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_quantity(text, "fs")


@pytest.mark.parametrize(
    "words, field, expected",
    [
        (["--temperature", "310"], "temperature", 310.0),
        (["--temp", "310K"], "temperature", 310.0),
        (["--ensemble", "NPT", "--pressure", "0.1GPa"], "pressure", 1000.0),
        (["--time", "1ns"], "num_steps", 1_000_000),
        (["--time", "1", "--timestep", "0.3"], "num_steps", 3333),
        (["--steps", "7"], "num_steps", 7),
        ([], "num_steps", 10_000),
        (["--charge", "-1"], "charge", -1),
        (["--minimize", "no"], "minimize", False),
        (["--minimize=no"], "minimize", False),
        (["--no-minimize"], "minimize", False),
        (["--minimize"], "minimize", True),
        (["--box", "10,11, 12"], "box", (10.0, 11.0, 12.0)),
        (["--trajectory-format", "dcd,XTC"], "trajectory_format", ("dcd", "xtc")),
        (["--platform", "cuda"], "platform", "CUDA"),
        ([], "output", Path("water-run")),
    ],
)
def test_flags(words, field, expected):
    assert getattr(run_config(*words), field) == expected


def test_hidden_alias_of_the_structure():
    assert load_config(RunConfig, ["--struct", "a.cif", "--model", "m"]).structure == Path("a.cif")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--pressure", "1"], r"--pressure needs ensemble = npt \(it is nvt\)"),
        (["--ensemble", "nve", "--friction", "1"], "--friction needs ensemble = nvt or npt"),
        (["--ensemble", "nve", "--thermostat", "bussi"], "--thermostat needs ensemble"),
        (["--ensemble", "npt", "--surface-tension", "1"], "--surface-tension needs barostat = membrane"),
        (["--barostat-interval", "5"], "--barostat-interval needs ensemble = npt"),
        (["--tensor-cores", "on"], r"--tensor-cores needs kernels = native \(it is auto\)"),
        (["--no-minimize", "--minimize-tolerance", "5"], r"needs minimize = yes \(it is no\)"),
        (["--temprature", "300"], "unknown option '--temprature'. Did you mean '--temperature'?"),
        (["--steps", "5", "--time", "1ps"], "give --(steps|time) or --(steps|time), not both"),
        (["--steps", "1.5"], "--steps: expected a whole number, got 1.5"),
        (["--steps", "-1"], "--steps: must be at least 0"),
        (["--timestep", "0"], "--timestep: must be greater than 0"),
        (["--timestep", "nan"], "--timestep: expected a number in fs"),
        (["--timestep", "2nm"], "'2nm' has the unit 'nm'; expected one of fs"),
        (["--ensemble", "nph"], "--ensemble: 'nph' is not one of nve, nvt, npt"),
        (["--trajectory-format", "dcd,trj"], "'trj' is not one of dcd, xtc, trr, extxyz"),
        (["--box", "10,10"], "--box: expected 3 or 6 values, got 2"),
        (["--box", "10,0,10"], "--box: must be greater than 0"),
        (["other.pdb"], "unexpected argument 'other.pdb'"),
        (["--seed"], "--seed"),
        (["--minimize", "perhaps"], "unexpected argument 'perhaps'"),
        (["--config", "missing.toml"], "cannot read missing.toml"),
    ],
)
def test_wrong_flags_are_refused(words, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        run_config(*words)


@pytest.mark.parametrize(
    "cls, argv, message", [(ExportConfig, ["m"], "structure is missing"), (RunConfig, ["--model", "m"], "structure is")]
)
def test_missing_required_options(cls, argv, message):
    with pytest.raises(UsageError, match=message):
        load_config(cls, argv)


def test_values_are_checked_in_python_too():
    with pytest.raises(UsageError, match="--timestep: must be greater than 0"):
        RunConfig(structure="w.pdb", model="m", timestep=-1.0)
    with pytest.raises(InputError, match="--pressure needs ensemble = npt"):
        RunConfig(structure="w.pdb", model="m", pressure=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_config().temperature = 3.0


def test_conditional_defaults_follow_the_ensemble():
    nve, nvt, npt = (run_config("--ensemble", name) for name in ("nve", "nvt", "npt"))
    assert (nve.thermostat, nve.friction, nve.pressure, nve.barostat) == (None, None, None, None)
    assert (nvt.thermostat, nvt.friction, nvt.pressure, nvt.barostat) == ("langevin", 1.0, None, None)
    assert (npt.thermostat, npt.pressure, npt.barostat, npt.surface_tension) == ("langevin", 1.0, "isotropic", None)
    assert run_config("--ensemble", "npt", "--barostat", "membrane").surface_tension == 0.0


# ---------------------------------------------------------------------------------------------- the file


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    config = from_file(tmp_path, "temperature = 350\ntimestep = 0.5\n", "--temperature", "400")
    assert (config.temperature, config.timestep, config.friction) == (400.0, 0.5, 1.0)


def test_flag_and_file_read_the_same_text(tmp_path):
    text = 'ensemble = "npt"\npressure = "0.1GPa"\ntime = "1ns"\nbox = [10, 11, 12]\ntrajectory-format = "xtc,dcd"\n'
    words = "--ensemble npt --pressure 0.1GPa --time 1ns --box 10,11,12 --trajectory-format xtc,dcd".split()
    config = from_file(tmp_path, text)
    assert dataclasses.replace(config, config=None) == run_config(*words)


def test_a_flag_replaces_its_rival_in_the_file(tmp_path):
    config = from_file(tmp_path, 'time = "1ns"\n', "--steps", "5")
    assert (config.steps, config.time) == (5, None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("temprature = 300", "unknown option 'temprature'. Did you mean 'temperature'?"),
        ("debug = true", "unknown option 'debug'"),
        ("temperature = [300]", "temperature: expected a number"),
        ("temperature = true", "temperature: expected a number, got True"),
        ("steps = 5\ntime = 1", "not both"),
        ("pressure = 1", "--pressure needs ensemble = npt"),
        ("temperature 300", "not a TOML file"),
        ("[run]\ntemperature = 300", "unknown option 'run'"),
        ("minimize = 1", "minimize: expected yes or no, got 1"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        from_file(tmp_path, text)


def test_paths_in_a_file_start_at_its_folder(tmp_path):
    (tmp_path / "run.toml").write_text('structure = "s/water.pdb"\nmodel = "tiny.mace"\noutput = "/elsewhere"\n')
    config = load_config(RunConfig, ["--config", str(tmp_path / "run.toml")])
    assert config.structure == tmp_path / "s" / "water.pdb"
    assert config.model == str(tmp_path / "tiny.mace")
    assert config.output == Path("/elsewhere")


def test_names_of_models_in_a_file_stay_names(tmp_path):
    (tmp_path / "run.toml").write_text('structure = "water.pdb"\nmodel = "mace-off23-small"\n')
    assert load_config(RunConfig, ["--config", str(tmp_path / "run.toml")]).model == "mace-off23-small"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--ensemble", "nve", "--no-minimize", "--charge", "-2"],
        ["--ensemble", "npt", "--barostat", "membrane", "--surface-tension", "3", "--time", "1ns"],
        ["--box", "10,10,10,90,90,120", "--trajectory-format", "dcd,extxyz", "--output", 'a "quoted" \\ name'],
    ],
)
def test_the_resolved_file_reads_back_to_the_same_configuration(tmp_path, words):
    config = load_config(RunConfig, [str(tmp_path / "water.pdb"), "--model", str(tmp_path / "m.mace"), *words])
    config = dataclasses.replace(config, output=config.output.absolute())
    for folder in (None, tmp_path):
        path = tmp_path / "resolved.toml"
        path.write_text(to_toml(config, folder))
        assert dataclasses.replace(load_config(RunConfig, ["--config", str(path)]), config=None) == config


def test_paths_inside_the_folder_are_written_relative_to_it(tmp_path):
    config = RunConfig(structure=tmp_path / "run" / "w.pdb", model="/models/m.mace", output=tmp_path / "run")
    table = tomllib.loads(to_toml(config, tmp_path / "run"))
    assert (table["structure"], table["model"], table["output"]) == ("w.pdb", "/models/m.mace", ".")


# ---------------------------------------------------------------------------------------------- for people


@pytest.mark.parametrize("cls", ALL)
def test_the_template_is_toml_that_changes_nothing(cls):
    assert tomllib.loads(template(cls)) == {}
    uncommented = [
        line[1:] for line in template(cls).splitlines() if line.startswith("#") and line[1:2] not in (" ", "")
    ]
    keys = {line.partition(" = ")[0] for line in uncommented}
    options = [(entry.name, kind) for entry, kind, _ in options_of(cls) if not entry.metadata.get("cli_only")]
    assert keys == {name for name, kind in options if not is_table(kind)}
    assert all(f"# [[{name}]]\n" in template(cls) for name, kind in options if is_table(kind))
    values = [line for line in uncommented if line.partition(" = ")[2].partition("#")[0].strip()]
    given = tomllib.loads("\n".join(values))
    for entry, _, _ in options_of(cls):
        if entry.name in given:
            assert entry.metadata.get("fill", entry.default) in (given[entry.name], tuple_or_same(given[entry.name]))


def tuple_or_same(value):
    return tuple(value) if isinstance(value, list) else Path(value) if isinstance(value, str) else value


def shown_flags(text: str) -> set[str]:
    return set(re.findall(r"^  (?:-h \[TOPIC\], )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}


@pytest.mark.parametrize("cls", [RunConfig, TrainConfig])
def test_the_short_help_has_the_common_options_and_where_the_rest_is(cls):
    short, full = (help_text(cls, "mace-md it", "", topic) for topic in ("", "all"))
    common = {flag(entry.name) for entry, _, _ in options_of(cls) if entry.metadata.get("common")}
    flags = {flag(entry.name) for entry, kind, _ in options_of(cls) if has_flag(kind)}
    positional = {flag(entry.name) for entry, _, _ in options_of(cls) if entry.metadata.get("positional")}
    assert 12 <= len(common) <= 18
    assert shown_flags(short) == common - positional
    assert shown_flags(full) == flags - positional
    assert f"{len(flags) - len(common)} more: `mace-md it --help all`" in short
    for heading in groups_of(cls):
        assert f"{heading}\n" in short and f"\n{heading}:\n" in full


@pytest.mark.parametrize(
    ("topic", "there", "not_there"),
    [
        ("pressure", "--pressure", "--committee"),  # in a heading
        ("--surface-tension", "--surface-tension", "--pressure"),  # a name
        ("freeze", "--freeze", "--smiles"),
        ("zzz", None, None),
    ],
)
def test_help_on_a_topic(topic, there, not_there):
    if there is None:
        with pytest.raises(UsageError, match=r"no option is about 'zzz'.*--help all"):
            help_text(RunConfig, "mace-md run", "", topic)
        return
    flags = shown_flags(help_text(RunConfig, "mace-md run", "", topic))
    assert there in flags and not_there not in flags


def test_headings_are_in_the_help_the_table_the_template_and_the_run_file():
    config = RunConfig(structure=Path("a.pdb"))
    for heading in [name for name in groups_of(RunConfig) if name != "the command itself"]:
        assert f"# ----- {heading}\n" in template(RunConfig)
        assert f"**{heading[0].upper()}{heading[1:]}**" in options_table(RunConfig)
    for heading in ("structure and model", "safety watch", "output and restarts"):
        assert f"# {heading}\n" in to_toml(config)


@pytest.mark.parametrize("cls", ALL)
def test_every_option_is_in_its_table_once_with_a_help(cls):
    table = options_table(cls)
    for entry, _, _ in options_of(cls):
        name = f"`{label_of(cls, entry.name)}`"
        assert table.count(f"| {name} |") == 1
        assert entry.metadata["help"] in table


def test_each_config_class_belongs_to_a_command():
    from mace_md.cli import COMMANDS

    classes = {name for name in vars(configs) if name.endswith("Config") and not name.startswith("_")}
    assert classes == {class_name for _, class_name, _ in COMMANDS.values()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """A command with one positional and then several."""

    model: str = option(help="model", positional=True, name_or_path=True)
    data: tuple[Path, ...] = option(help="files", positional=True)
    head: str | None = option(None, help="head")
    config: Path | None = option(None, cli_only=True, help="file")

    def __post_init__(self) -> None:
        settle(self)


@pytest.mark.parametrize(
    "words", [["m", "a", "b", "--head", "h"], ["--head", "h", "m", "a", "b"], ["m", "--head", "h", "a", "b"]]
)
def test_several_files_may_stand_anywhere_among_the_flags(words):
    config = load_config(Files, words)
    assert (config.model, config.data, config.head) == ("m", (Path("a"), Path("b")), "h")


def test_several_paths_of_a_file_start_at_its_folder_and_come_back(tmp_path):
    (tmp_path / "it.toml").write_text('model = "name"\ndata = ["a", "/b"]\n')
    config = load_config(Files, ["--config", str(tmp_path / "it.toml")])
    assert config.data == (tmp_path / "a", Path("/b"))
    text = to_toml(config, tmp_path)
    assert 'data = ["a", "/b"]' in text
    (tmp_path / "again.toml").write_text(text)
    assert load_config(Files, ["--config", str(tmp_path / "again.toml")]).data == config.data
    with pytest.raises(UsageError, match="data is missing"):
        load_config(Files, ["m"])


def test_the_run_files_of_the_guide_are_read(tmp_path):
    """Each TOML example: alone, or with the tables it needs to be a run."""
    from mace_md.md.dynamics.stages import parts_of

    pages = sorted((Path(__file__).parent.parent / "docs" / "guide").glob("*.md"))
    guide = "\n".join(page.read_text() for page in pages)
    examples = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    found = [from_file(tmp_path, text) for text in examples if "[[" in text]
    assert len(found) >= 3
    for config in found:
        assert config.stage or config.restraint or config.external_force
        assert parts_of(config)[-1].is_last


def test_ramps_on_the_command_line_are_two_options():
    words = ["a.pdb", "--ensemble", "npt", "--pressure", "1 -> 1GPa", "--temperature", "50->300"]
    config = load_config(RunConfig, words)
    assert (config.pressure_from, config.pressure) == (1.0, 10000.0)
    assert (config.temperature_from, config.temperature) == (50.0, 300.0)
    for wrong in (["--temperature", "1 -> 2 -> 3"], ["--temperature", "1 -> 2", "--temperature-from", "3"]):
        with pytest.raises(UsageError, match="--temperature"):
            load_config(RunConfig, ["a.pdb", *wrong])


@pytest.mark.parametrize(
    ("smiles", "folder"),
    [("CCO", "CCO-run"), ("N", "N-run"), ("Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1", "Cc1cc_NS_O_d22f-run")],
)
def test_folders_named_after_a_smiles_are_short(smiles, folder):
    assert str(RunConfig(smiles=smiles).output) == folder
    assert str(RunConfig(smiles=smiles + "C").output) != folder
