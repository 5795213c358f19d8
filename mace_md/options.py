"""How an option, declared once as a dataclass field, becomes a flag, a TOML key, a help text, a check and a table row.

The declarations themselves are in config/. Order of precedence: default < `--config` file < flag.
"""

import argparse
import difflib
import functools
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from mace_md.errors import UsageError
from mace_md.units import parse_quantity

Config = TypeVar("Config")
_TRUE, _FALSE = ("yes", "true", "on"), ("no", "false", "off")
GIVEN = None  # in only_if: the other option has any value


@dataclass(frozen=True)
class Ramp:
    """A number that goes evenly from `start` to `end`; constant where they are equal. Written `300` or `50 -> 300`."""

    start: float
    end: float

    def at(self, fraction: float) -> float:
        """The value after `fraction` (0 to 1) of the way."""
        return self.start + (self.end - self.start) * fraction

    @property
    def is_constant(self) -> bool:
        return self.start == self.end

    def __str__(self) -> str:
        return f"{self.end:g}" if self.is_constant else f"{self.start:g} -> {self.end:g}"


def option(default: Any = MISSING, **meta: Any) -> Any:
    """A dataclass field that is an option.

    Keywords: help; unit; choices; positional; aliases (hidden flags); shown_default (text for the help where the
    default is worked out); only_if=(field, values or GIVEN) with fill= the default where it holds; instead_of= the
    field that it replaces; above= and at_least= bounds; count= allowed lengths of a list; cli_only (not a TOML key);
    name_or_path (a str that may be a path).

    Types: bool, int, float, str, Path, Ramp; dict (a table of numbers); a dataclass of options (a table, in files
    only); and tuples of these.
    """
    return field(default=default, metadata=meta)


def options_of(cls: type) -> Iterator[tuple[Field, type, bool]]:
    """Each option of a config class with its element type and whether it holds several values."""
    hints = typing.get_type_hints(cls)
    for entry in fields(cls):
        hint = hints[entry.name]
        if isinstance(hint, types.UnionType):  # `X | None`
            hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
        many = typing.get_origin(hint) is tuple
        yield entry, typing.get_args(hint)[0] if many else hint, many


def is_table(kind: type) -> bool:
    """Whether an option is a TOML table with options of its own, which has no flag."""
    return is_dataclass(kind) and kind is not Ramp


def _has_flag(kind: type) -> bool:
    return not is_table(kind) and kind is not dict


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---------------------------------------------------------------------------------------------- one value


def _number(value: Any, kind: type, unit: str | None) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        number = parse_quantity(value, unit) if isinstance(value, str) and unit else float(value)
    except ValueError as error:
        raise error if unit else ValueError(f"expected a number, got '{value}'") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"expected a finite number, got '{value}'")
    if kind is int:
        if number != int(number):
            raise ValueError(f"expected a whole number, got {value}")
        return int(number)
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise ValueError(f"expected yes or no, got {value!r}")


def _one(value: Any, kind: type, meta: Any) -> Any:
    """`value` (text from the command line, or a TOML value) as the option's type; ValueError says what is wrong."""
    if kind is bool:
        return _boolean(value)
    if kind in (int, float):
        number = _number(value, kind, meta.get("unit"))
        if "above" in meta and not number > meta["above"]:
            raise ValueError(f"must be greater than {meta['above']}, got {value}")
        if "at_least" in meta and not number >= meta["at_least"]:
            raise ValueError(f"must be at least {meta['at_least']}, got {value}")
        return number
    if kind is Ramp:
        return _ramp(value, meta)
    if kind is dict:
        return _numbers(value)
    if is_table(kind):
        return value if isinstance(value, kind) else _table(value, kind)
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"expected text, got {value!r}")
    if kind is Path:
        return Path(value).expanduser()
    for choice in meta.get("choices", ()):
        if choice.lower() == str(value).lower():
            return choice
    if meta.get("choices"):
        raise ValueError(f"'{value}' is not one of {', '.join(meta['choices'])}")
    return str(value)


def _ramp(value: Any, meta: Any) -> Ramp:
    """`300`, or `50 -> 300`; each end is checked as a number of its own."""
    if isinstance(value, Ramp):
        ends = (value.start, value.end)
    elif isinstance(value, str) and "->" in value:
        ends = tuple(part.strip() for part in value.split("->"))
    else:
        ends = (value, value)
    if len(ends) != 2:
        raise ValueError(f"expected one value, or 'start -> end', got '{value}'")
    return Ramp(*(_one(end, float, meta) for end in ends))


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a table of numbers, such as {{ k = 1.0 }}, got {value!r}")
    return {str(name): float(_number(number, float, None)) for name, number in value.items()}


def _table(value: Any, kind: type) -> Any:
    """A TOML table as the dataclass of options `kind`."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a table with {', '.join(entry.name for entry in fields(kind))}, got {value!r}")
    given = {key.replace("-", "_"): one for key, one in value.items()}
    for key in given:
        names = [entry.name for entry in fields(kind)]
        if key not in names:
            raise ValueError(f"unknown key '{key}'.{nearest(key, names)}")
    for entry in fields(kind):
        if entry.default is MISSING and entry.name not in given:
            raise ValueError(f"{entry.name} is missing ({entry.metadata['help']})")
    _refuse_pairs(kind, given, str)
    return kind(**_converted(kind, given, str))


def convert(value: Any, entry: Field, kind: type, many: bool) -> Any:
    """`value` as the field's type: one element, or a tuple from a TOML list or comma-separated text."""
    if not many:
        return _one(value, kind, entry.metadata)
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        parts = [parts]
    values = []
    for number, part in enumerate(parts, start=1):
        try:
            values.append(_one(part.strip() if isinstance(part, str) else part, kind, entry.metadata))
        except ValueError as error:
            if not is_table(kind):
                raise
            name = part.get("name") if isinstance(part, dict) else None
            raise ValueError(f"table {number}{f' ({name})' if name else ''}: {error}") from None
    count = entry.metadata.get("count")
    if count and len(values) not in count:
        raise ValueError(f"expected {' or '.join(map(str, count))} values, got {len(values)}")
    return tuple(values)


# ---------------------------------------------------------------------------------------------- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message)


def make_parser(cls: type, prog: str, description: str) -> argparse.ArgumentParser:
    """The argument parser of a config class; it returns only what was given, as text."""
    positional = [(entry.name, many) for entry, _, many in options_of(cls) if entry.metadata.get("positional")]
    words = [name + " ..." * many for name, many in positional]
    usage = " ".join([prog, *words, "[options]"])
    parser = _Parser(
        prog=prog, usage=usage, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for entry, kind, many in options_of(cls):
        meta = entry.metadata
        text = (meta["help"] + _help_suffix(entry)).replace("%", "%%")
        if not _has_flag(kind):
            continue
        if meta.get("positional"):
            parser.add_argument(entry.name, nargs="*" if many else "?", help=text)
        elif kind is bool:
            action = argparse.BooleanOptionalAction if entry.default else "store_true"
            parser.add_argument(flag(entry.name), dest=entry.name, action=action, help=text)
        else:
            metavar = _metavar(entry, kind) + (",..." if many else "")
            parser.add_argument(flag(entry.name), dest=entry.name, metavar=metavar, help=text)
        if meta.get("aliases"):
            parser.add_argument(*meta["aliases"], dest=entry.name, help=argparse.SUPPRESS)
    return parser


def _metavar(entry: Field, kind: type) -> str:
    if "choices" in entry.metadata:
        return "{" + ",".join(entry.metadata["choices"]) + "}"
    if "unit" in entry.metadata:
        return entry.metadata["unit"]
    if entry.metadata.get("name_or_path"):
        return "NAME_OR_PATH"
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _help_suffix(entry: Field) -> str:
    default = shown_default(entry)
    return f" (default: {default})" if default and entry.default is not False else ""


def shown_default(entry: Field) -> str:
    """The default as people read it; empty for a required option."""
    meta = entry.metadata
    if "shown_default" in meta:
        return meta["shown_default"]
    if "fill" in meta:
        return _plain(meta["fill"])
    return "" if entry.default in (MISSING, None) else _plain(entry.default)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def _spelled_booleans(cls: type, argv: Sequence[str]) -> list[str]:
    """`--minimize no` and `--minimize=no` as argparse's `--no-minimize`."""
    booleans = {flag(entry.name): entry.default for entry, kind, _ in options_of(cls) if kind is bool}
    known = {*booleans, *("--no-" + name[2:] for name, default in booleans.items() if default)}
    result: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in booleans and not equals and words and words[0].lower() in _TRUE + _FALSE:
            value = words.pop(0)
        if name in booleans and value.lower() in _TRUE + _FALSE:
            word = name if value.lower() in _TRUE else "--no-" + name[2:]
            if word not in known:  # `--quiet no` is the default
                continue
        result.append(word)
    return result


def read_flags(cls: type, argv: Sequence[str], prog: str, description: str) -> dict[str, Any]:
    """The options named in `argv`, converted. Raises UsageError; prints the help and exits for -h."""
    parser = make_parser(cls, prog, description)
    known, unknown = parser.parse_known_intermixed_args(_spelled_booleans(cls, argv))
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise UsageError(f"{prog}: unexpected argument '{word}'. See `{prog} --help`.")
        raise UsageError(f"{prog}: unknown option '{word}'.{nearest(word, list(parser._option_string_actions))}")
    given = vars(known)
    return _converted(cls, given, lambda name: label_of(cls, name))


def label_of(cls: type, name: str) -> str:
    """How messages and tables call an option: its flag, its name where it is positional, [[name]] for a table."""
    entry, kind, _ = next(found for found in options_of(cls) if found[0].name == name)
    if entry.metadata.get("positional") or kind is dict or getattr(cls, "is_table", False):
        return name
    return flag(name) if _has_flag(kind) else f"[[{name}]]"


def _is_positional(cls: type, name: str) -> bool:
    return any(entry.name == name and entry.metadata.get("positional") for entry in fields(cls))


def _converted(cls: type, given: dict[str, Any], label: Any) -> dict[str, Any]:
    values = {}
    for entry, kind, many in options_of(cls):
        if entry.name in given:
            try:
                values[entry.name] = convert(given[entry.name], entry, kind, many)
            except ValueError as error:
                raise UsageError(f"{label(entry.name)}: {error}") from None
    return values


# ---------------------------------------------------------------------------------------------- the file


def read_file(cls: type, path: Path) -> dict[str, Any]:
    """The options in a TOML file, converted; relative paths in it start at its folder. Raises UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: cannot read {path} ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:  # not text, not TOML, or a number of thousands of digits
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    keys = {entry.name for entry, _, _ in options_of(cls) if not entry.metadata.get("cli_only")}
    for key in table:
        name = key.replace("-", "_")
        if name not in keys:
            raise UsageError(f"{path}: unknown option '{key}'.{nearest(name, sorted(keys))}")
    given = {key.replace("-", "_"): value for key, value in table.items()}
    tables = {entry.name for entry, kind, _ in options_of(cls) if is_table(kind)}
    values = _converted(cls, given, lambda name: f"{path}: {f'[[{name}]]' if name in tables else name}")
    for entry, kind, many in options_of(cls):
        value = values.get(entry.name)
        if value is None or not (kind is Path or entry.metadata.get("name_or_path")):
            continue
        moved = tuple(
            kind(path.parent / Path(one).expanduser()) if kind is Path or looks_like_path(one) else one
            for one in (value if many else (value,))
        )
        values[entry.name] = moved if many else moved[0]
    return values


def looks_like_path(text: str) -> bool:
    """Whether a 'name or path' is a path: it has a folder in it or one of the suffixes of a model file."""
    return "/" in text or "\\" in text or text.endswith((".model", ".mace", ".pt", ".json"))


# ---------------------------------------------------------------------------------------------- all together


def load_config(cls: type[Config], argv: Sequence[str], prog: str = "mace-md", description: str = "") -> Config:
    """The configuration of a command from its arguments: defaults < `--config` file < flags.

    Raises UsageError for an unknown, malformed, missing or contradicting option.
    """
    flags = read_flags(cls, argv, prog, description)
    values = read_file(cls, flags["config"]) if flags.get("config") else {}
    for given in (values, flags):
        _refuse_pairs(cls, given, functools.partial(label_of, cls))
    for name in list(values):
        if _rival(cls, name) in flags:  # --steps on the command line replaces `time` of the file
            del values[name]
    values.update(flags)
    for entry, _, _ in options_of(cls):
        if entry.default is MISSING and entry.name not in values:
            what = entry.name if entry.metadata.get("positional") else flag(entry.name)
            raise UsageError(f"{prog}: {what} is missing ({entry.metadata['help']}). See `{prog} --help`.")
    return cls(**values)


def _rival(cls: type, name: str) -> str | None:
    for entry in fields(cls):
        rival = entry.metadata.get("instead_of")
        if rival and name in (entry.name, rival):
            return entry.name if name == rival else rival
    return None


def _refuse_pairs(cls: type, values: dict[str, Any], label: Any) -> None:
    for name in values:
        rival = _rival(cls, name)
        if rival in values:
            first, second = map(label, sorted((name, rival)))
            raise UsageError(f"give {first} or {second}, not both.")


def _holds(found: Any, allowed: Sequence[Any] | None) -> bool:
    return found is not None if allowed is GIVEN else found in allowed


def settle(config: Any) -> None:
    """For __post_init__: check the values, fill in the conditional defaults, refuse what the others rule out."""
    cls = type(config)
    label = functools.partial(label_of, cls)
    given = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    values = _converted(cls, {name: value for name, value in given.items() if value is not None}, label)
    defaults = {entry.name: entry.default for entry in fields(config)}
    _refuse_pairs(cls, {name: value for name, value in values.items() if value != defaults[name]}, label)
    for entry in fields(config):
        value = values.get(entry.name)
        if "only_if" in entry.metadata:
            other, allowed = entry.metadata["only_if"]
            found = getattr(config, other)
            applies = _holds(found, allowed)
            if value is not None and not applies:
                if allowed is GIVEN:
                    raise UsageError(f"{label(entry.name)} needs {label(other)}.")
                wanted = " or ".join(_plain(choice) for choice in allowed)
                raise UsageError(f"{label(entry.name)} needs {other} = {wanted} (it is {_plain(found)}).")
            if value is None and applies:
                value = entry.metadata.get("fill")
        object.__setattr__(config, entry.name, value)


def derive(config: Config, **changes: Any) -> Config:
    """`config` with `changes`, less the options that have no meaning any more; contradicting changes are refused."""
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)} | changes
    for entry in fields(config):
        if "only_if" in entry.metadata and entry.name not in changes:
            other, allowed = entry.metadata["only_if"]
            if not _holds(values[other], allowed):
                values[entry.name] = None
    return type(config)(**values)


# ---------------------------------------------------------------------------------------------- writing


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Ramp):
        return repr(value.end) if value.is_constant else f'"{value.start!r} -> {value.end!r}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_toml(number)}" for name, number in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{text}"'


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _toml(name)


def to_toml(config: Any, folder: Path | None = None) -> str:
    """Every option that has a value, as a TOML text that `--config` reads back to the same configuration.

    Paths are written relative to `folder` (where the file will lie) when they are inside it, absolute otherwise.
    """
    lines, tables = [], []
    for entry, kind, many in options_of(type(config)):
        value = getattr(config, entry.name)
        if value is None or entry.metadata.get("cli_only"):
            continue
        if is_table(kind):  # after all keys: in TOML a table lasts until the next one
            tables += [f"\n[[{entry.name}]]\n{to_toml(one, folder)}" for one in value]
            continue
        if kind is Path or entry.metadata.get("name_or_path"):
            value = tuple(_located(one, kind, folder) for one in value) if many else _located(value, kind, folder)
        unit = f"  # {entry.metadata['unit']}" if "unit" in entry.metadata else ""
        lines.append(f"{entry.name} = {_toml(value)}{unit}\n")
    return "".join(lines + tables)


def _located(value: Any, kind: type, folder: Path | None) -> Any:
    """A path as it is written to a file in `folder`; a name that is not a path as it is."""
    if kind is not Path and not looks_like_path(value):
        return value
    path = Path(value).absolute()
    inside = folder is not None and path.is_relative_to(Path(folder).absolute())
    return path.relative_to(Path(folder).absolute()) if inside else path


def template(cls: type) -> str:
    """A TOML file with every option explained and set to its default, all commented out."""
    lines, tables = [], []
    for entry, kind, _ in options_of(cls):
        meta = entry.metadata
        if meta.get("cli_only"):
            continue
        if is_table(kind):
            tables += _table_template(entry, kind)
            continue
        choices = f" [{' | '.join(meta['choices'])}]" if "choices" in meta else ""
        unit = f", {meta['unit']}" if "unit" in meta else ""
        lines.append(f"# {meta['help']}{unit}{choices}\n")
        default = meta.get("fill", None if entry.default is MISSING else entry.default)
        shown = f"  # default: {meta['shown_default']}" if "shown_default" in meta else ""
        lines.append(f"#{entry.name} = {'' if default is None else _toml(default)}{shown}\n\n")
    return "".join(lines + tables)


def _table_template(entry: Field, kind: type) -> list[str]:
    """The keys of a table, as comments: it may appear any number of times, or not at all."""
    lines = [f"# {entry.metadata['help']}\n", f"# [[{entry.name}]]\n"]
    for key, _, _ in options_of(kind):
        meta = key.metadata
        unit = f", {meta['unit']}" if "unit" in meta else ""
        choices = f" [{' | '.join(meta['choices'])}]" if "choices" in meta else ""
        default = meta.get("fill", None if key.default is MISSING else key.default)
        said = "required" if key.default is MISSING else meta.get("shown_default")
        note = f" ({said})" if said else ""
        value = "" if default is None else _toml(default)
        lines.append(f"# {key.name} = {value}  # {meta['help']}{unit}{choices}{note}\n")
    return [*lines, "\n"]


def _condition(name: str, values: Sequence[Any] | None) -> str:
    return f"`{flag(name)}`" if values is GIVEN else f"{name} = {' or '.join(map(_plain, values))}"


def options_table(cls: type) -> str:
    """A Markdown table of the options of a config class."""
    rows = ["| option | default | unit | meaning |", "|---|---|---|---|"]
    for entry, kind, many in options_of(cls):
        meta = entry.metadata
        name = f"`{label_of(cls, entry.name)}`"
        choices = f" One of {', '.join(f'`{choice}`' for choice in meta['choices'])}." if "choices" in meta else ""
        if many and not is_table(kind):
            choices += " Several are separated by commas."
        condition = ""
        if "only_if" in meta:
            condition = f" Only with {_condition(*meta['only_if'])}."
        default = shown_default(entry) or ("required" if entry.default is MISSING else "-")
        rows.append(f"| {name} | {default} | {meta.get('unit', '')} | {meta['help']}.{choices}{condition} |")
    return "\n".join(rows) + "\n"
