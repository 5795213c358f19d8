"""Writes the option tables of docs/guide.md from mace_md/config.py: `python docs/update_tables.py`."""

import re
from pathlib import Path

from mace_md import config

GUIDE = Path(__file__).parent / "guide.md"
TABLE = re.compile(r"(<!-- options of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """`text` with each table between its two markers made anew."""
    return TABLE.sub(lambda found: found[1] + config.options_table(getattr(config, found[2])) + found[3], text)


if __name__ == "__main__":
    GUIDE.write_text(updated(GUIDE.read_text()))
