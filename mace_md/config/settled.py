"""What all option classes share: they are checked and completed when they are made."""

from mace_md.options.reading import settle

DEFAULT_MODEL = "mace-md-small"  # comes with the package, see model/reading/zoo.py


class Settled:
    """An option class whose values are checked and completed at once."""

    def __post_init__(self) -> None:
        settle(self)
