"""Options of `mace-md models`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config.settled import Settled
from mace_md.options import option


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settled):
    """`mace-md models`."""

    action: str = option(
        "list",
        choices=("list", "pull", "show"),
        help="list the named models, fetch one, or describe one",
        positional=True,
    )
    name: str | None = option(
        None, positional=True, name_or_path=True, help="name of a model (pull, show) or a model file (show)"
    )
    cache: Path | None = option(None, help="folder of the fetched models", shown_default="the user's cache folder")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")
