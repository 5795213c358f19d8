"""Options as text: the TOML file that `--config` reads back, the commented template, and the tables of the guide."""

from collections.abc import Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from mace_md.options.declare import (
    GIVEN,
    Ramp,
    flag,
    groups_of,
    is_table,
    label_of,
    looks_like_path,
    options_of,
    plain,
    shown_default,
)


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
    parts, tables = [], []
    for heading, options in groups_of(type(config)).items():
        lines = []
        for entry, kind, many in options:
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
        parts.append((f"# {heading}\n" if heading and lines else "") + "".join(lines))
    return "\n".join(part for part in parts if part) + "".join(tables)


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
    heading = ""
    for entry, kind, _ in options_of(cls):
        meta = entry.metadata
        if meta.get("cli_only"):
            continue
        if meta.get("group", heading) != heading:
            heading = meta["group"]
            lines.append(f"# ----- {heading}\n\n")
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
    return f"`{flag(name)}`" if values is GIVEN else f"{name} = {' or '.join(map(plain, values))}"


def options_table(cls: type) -> str:
    """A Markdown table of the options of a config class under each of its headings."""
    parts = []
    for heading, options in groups_of(cls).items():
        rows = ["| option | default | unit | meaning |", "|---|---|---|---|"]
        rows += [_table_row(cls, entry, kind, many) for entry, kind, many in options]
        parts.append((f"**{heading[0].upper()}{heading[1:]}**\n\n" if heading else "") + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _table_row(cls: type, entry: Field, kind: type, many: bool) -> str:
    meta = entry.metadata
    choices = f" One of {', '.join(f'`{choice}`' for choice in meta['choices'])}." if "choices" in meta else ""
    if many and not is_table(kind):
        choices += " Several are separated by commas."
    condition = f" Only with {_condition(*meta['only_if'])}." if "only_if" in meta else ""
    default = shown_default(entry) or ("required" if entry.default is MISSING else "-")
    name = f"`{label_of(cls, entry.name)}`"
    return f"| {name} | {default} | {meta.get('unit', '')} | {meta['help']}.{choices}{condition} |"
