"""Options of `mace-md models`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.options.declare import option


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settled):
    """`mace-md models`."""

    action: str = option(
        "list",
        choices=("list", "pull", "show", "check"),
        help="list the named models, fetch one, describe one, or test one against the laws of physics",
        positional=True,
    )
    name: str | None = option(
        None, positional=True, name_or_path=True, help="name of a model, or a model file (show, check)"
    )
    cache: Path | None = option(None, help="folder of the fetched models", shown_default="the user's cache folder")
    head: str | None = shared.head()
    config: Path | None = shared.config()
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()
