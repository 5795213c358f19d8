"""Options from the command line and from a file, converted and checked.

Order of precedence: default < `--config` file < flag.
"""

import argparse
import functools
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

from mace_md.errors import UsageError
from mace_md.options.declare import (
    GIVEN,
    Ramp,
    flag,
    groups_of,
    has_flag,
    holds,
    is_table,
    label_of,
    looks_like_path,
    nearest,
    options_of,
    plain,
    refuse_pairs,
    rival_of,
    shown_default,
)
from mace_md.units import parse_quantity

Config = TypeVar("Config")
_TRUE, _FALSE = ("yes", "true", "on"), ("no", "false", "off")


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
        if "at_most" in meta and not number <= meta["at_most"]:
            raise ValueError(f"must be at most {meta['at_most']}, got {value}")
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
    refuse_pairs(kind, given, str)
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


class _Help(argparse.Action):
    """`--help` for the common options, `--help all`, and `--help WORD` for a heading or whatever has the word in it."""

    def __init__(self, option_strings: Sequence[str], dest: str, cls: type, description: str, default: Any) -> None:
        super().__init__(
            option_strings, dest, nargs="?", const="", default=default, metavar="TOPIC", help="all, or help on a topic"
        )
        self.cls, self.description = cls, description

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, topic: Any, flag_given: Any = None) -> None:
        print(help_text(self.cls, parser.prog, self.description, topic), end="")
        parser.exit()


def help_text(cls: type, prog: str, description: str, topic: str = "") -> str:
    """The help of a command on a topic: '' for the common options, 'all', a heading, or a word in names and texts.

    Raises UsageError when no option is about the topic.
    """
    everything = [entry for entry, kind, _ in options_of(cls) if has_flag(kind)]
    headings = [heading for heading in groups_of(cls) if heading]
    word = topic.lower()
    common = [entry for entry in everything if entry.metadata.get("common")]
    if not word:
        shown = common or everything
    elif word == "all":
        shown = everything
    else:
        under = [entry for heading in headings if word in heading for entry, _, _ in groups_of(cls)[heading]]
        flat = word.lstrip("-").replace("-", "_")
        shown = under or [entry for entry in everything if flat in entry.name or word in entry.metadata["help"].lower()]
    if not shown:
        near = nearest(word, [*headings, *(entry.name for entry in everything)])
        raise UsageError(f"{prog}: no option is about '{topic}'.{near} `{prog} --help all` shows every option.")
    text = make_parser(cls, prog, description, {entry.name for entry in shown}).format_help()
    if not word and len(shown) < len(everything):
        more = len(everything) - len(shown)
        text += f"\n{more} more: `{prog} --help all`, or `{prog} --help WORD`, where WORD is in the\n"
        text += "name or the text of an option, or in a heading:\n"
        text += "".join(f"  {heading}\n" for heading in headings)
    return text


def make_parser(cls: type, prog: str, description: str, shown: set[str] | None = None) -> argparse.ArgumentParser:
    """The argument parser of a config class; it returns only what was given, as text.

    shown : the options that its help has; all when None.
    """
    positional = [(entry.name, many) for entry, _, many in options_of(cls) if entry.metadata.get("positional")]
    words = [name + " ..." * many for name, many in positional]
    usage = " ".join([prog, *words, "[options]"])
    parser = _Parser(
        prog=prog,
        usage=usage,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    parser.register("action", "help on a topic", _Help)
    parser.add_argument("-h", "--help", action="help on a topic", cls=cls, description=description)
    for heading, options in groups_of(cls).items():
        group = parser.add_argument_group(heading) if heading else parser
        for entry, kind, many in options:
            if has_flag(kind):
                _add_option(group, entry, kind, many, shown is None or entry.name in shown)
    return parser


def _add_option(group: Any, entry: Field, kind: type, many: bool, shown: bool) -> None:
    meta = entry.metadata
    text = (meta["help"] + _help_suffix(entry)).replace("%", "%%") if shown else argparse.SUPPRESS
    if meta.get("positional"):
        group.add_argument(entry.name, nargs="*" if many else "?", help=text)
    elif kind is bool:
        action = argparse.BooleanOptionalAction if entry.default else "store_true"
        group.add_argument(flag(entry.name), dest=entry.name, action=action, help=text)
    else:
        metavar = _metavar(entry, kind) + (",..." if many else "")
        group.add_argument(flag(entry.name), dest=entry.name, metavar=metavar, help=text)
    if meta.get("aliases"):
        group.add_argument(*meta["aliases"], dest=entry.name, help=argparse.SUPPRESS)


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


def _without_ramps(cls: type, given: dict[str, Any], label: Any) -> dict[str, Any]:
    """`pressure = "1 -> 10000"` as the two options that it stands for."""
    result = dict(given)
    for entry, _, _ in options_of(cls):
        start, value = entry.metadata.get("ramp_from"), given.get(entry.name)
        if start is None or not isinstance(value, str) or "->" not in value:
            continue
        if start in given:
            raise UsageError(f"{label(entry.name)} {value}: the ramp has a start, and so has {label(start)}. Give one.")
        ends = [end.strip() for end in value.split("->")]
        if len(ends) != 2 or not all(ends):
            raise UsageError(f"{label(entry.name)}: expected one value, or 'start -> end', got '{value}'")
        result[start], result[entry.name] = ends
    return result


def _converted(cls: type, given: dict[str, Any], label: Any) -> dict[str, Any]:
    values = {}
    given = _without_ramps(cls, given, label)
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
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
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


# ---------------------------------------------------------------------------------------------- all together


def load_config(cls: type[Config], argv: Sequence[str], prog: str = "mace-md", description: str = "") -> Config:
    """The configuration of a command from its arguments: defaults < `--config` file < flags.

    Raises UsageError for an unknown, malformed, missing or contradicting option.
    """
    flags = read_flags(cls, argv, prog, description)
    values = read_file(cls, flags["config"]) if flags.get("config") else {}
    for given in (values, flags):
        refuse_pairs(cls, given, functools.partial(label_of, cls))
    for name in list(values):
        if rival_of(cls, name) in flags:  # --steps on the command line replaces `time` of the file
            del values[name]
    values.update(flags)
    for entry, _, _ in options_of(cls):
        if entry.default is MISSING and entry.name not in values:
            what = entry.name if entry.metadata.get("positional") else flag(entry.name)
            raise UsageError(f"{prog}: {what} is missing ({entry.metadata['help']}). See `{prog} --help`.")
    return cls(**values)


def settle(config: Any) -> None:
    """For __post_init__: check the values, fill in the conditional defaults, refuse what the others rule out."""
    cls = type(config)
    label = functools.partial(label_of, cls)
    given = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    values = _converted(cls, {name: value for name, value in given.items() if value is not None}, label)
    defaults = {entry.name: entry.default for entry in fields(config)}
    refuse_pairs(cls, {name: value for name, value in values.items() if value != defaults[name]}, label)
    for entry in fields(config):
        value = values.get(entry.name)
        if "only_if" in entry.metadata:
            other, allowed = entry.metadata["only_if"]
            found = getattr(config, other)
            applies = holds(found, allowed)
            if value is not None and not applies:
                if allowed is GIVEN:
                    raise UsageError(f"{label(entry.name)} needs {label(other)}.")
                wanted = " or ".join(plain(choice) for choice in allowed)
                raise UsageError(f"{label(entry.name)} needs {other} = {wanted} (it is {plain(found)}).")
            if value is None and applies:
                value = entry.metadata.get("fill")
        object.__setattr__(config, entry.name, value)


def derive(config: Config, **changes: Any) -> Config:
    """`config` with `changes`, less the options that have no meaning any more; contradicting changes are refused."""
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)} | changes
    for entry in fields(config):
        if "only_if" in entry.metadata and entry.name not in changes:
            other, allowed = entry.metadata["only_if"]
            if not holds(values[other], allowed):
                values[entry.name] = None
    return type(config)(**values)
