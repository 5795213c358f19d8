"""How an option is declared: a dataclass field with its help, unit, bounds and relations to others.

The declarations themselves are in config/.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

from mace_md.errors import UsageError

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
    field that it replaces; above=, at_least=, at_most= bounds; count= allowed lengths of a list; cli_only (not a TOML
    key); name_or_path (a str that may be a path); ramp_from= the option that gets the start of a value `start -> end`;
    group= the heading of this option and of those after it, up to the next group=; common (among the few that the
    short help shows); on_restart="free" where a continued run may have another value: of any other option, another
    value makes another run, which is refused.

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


def groups_of(cls: type) -> dict[str, list[tuple[Field, type, bool]]]:
    """The options of a config class (`options_of`) under their headings, in order; '' where there is no heading."""
    groups: dict[str, list[tuple[Field, type, bool]]] = {}
    heading = ""
    for entry, kind, many in options_of(cls):
        heading = entry.metadata.get("group", heading)
        groups.setdefault(heading, []).append((entry, kind, many))
    return groups


def fixed_options(cls: type) -> list[str]:
    """The options of a config class that a continued run may not change."""
    return [entry.name for entry in fields(cls) if entry.metadata.get("on_restart") != "free"]


def is_table(kind: type) -> bool:
    """Whether an option is a TOML table with options of its own, which has no flag."""
    return is_dataclass(kind) and kind is not Ramp


def has_flag(kind: type) -> bool:
    return not is_table(kind) and kind is not dict


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def shown_default(entry: Field) -> str:
    """The default as people read it; empty for a required option."""
    meta = entry.metadata
    if "shown_default" in meta:
        return meta["shown_default"]
    if "fill" in meta:
        return plain(meta["fill"])
    return "" if entry.default in (MISSING, None) else plain(entry.default)


def plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def label_of(cls: type, name: str) -> str:
    """How messages and tables call an option: its flag, its name where it is positional, [[name]] for a table."""
    entry, kind, _ = next(found for found in options_of(cls) if found[0].name == name)
    if entry.metadata.get("positional") or kind is dict or getattr(cls, "is_table", False):
        return name
    return flag(name) if has_flag(kind) else f"[[{name}]]"


def looks_like_path(text: str) -> bool:
    """Whether a 'name or path' is a path: it has a folder in it or one of the suffixes of a model file."""
    return "/" in text or "\\" in text or text.endswith((".model", ".mace", ".pt", ".json"))


def rival_of(cls: type, name: str) -> str | None:
    for entry in fields(cls):
        rival = entry.metadata.get("instead_of")
        if rival and name in (entry.name, rival):
            return entry.name if name == rival else rival
    return None


def refuse_pairs(cls: type, values: dict[str, Any], label: Any) -> None:
    for name in values:
        rival = rival_of(cls, name)
        if rival in values:
            first, second = map(label, sorted((name, rival)))
            raise UsageError(f"give {first} or {second}, not both.")


def holds(found: Any, allowed: Sequence[Any] | None) -> bool:
    return found is not None if allowed is GIVEN else found in allowed
