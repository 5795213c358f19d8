"""Options of `mace-md doctor`."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import Settled
from mace_md.options.declare import option


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Settled):
    """`mace-md doctor`."""

    json: bool = option(False, help="print the findings as JSON")
    config: Path | None = shared.config()
    debug: bool = shared.debug()
