"""The commands of `mace-md`, one file each; nothing imports them but cli.py."""
