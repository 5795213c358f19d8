"""`python -m mace_md` is `mace-md`."""

import sys

from mace_md.cli import main

if __name__ == "__main__":
    sys.exit(main())
