"""The command line of PAM, one file a command. `main` is what `pam` and `python3 -m infra` call."""

from infra.cli.app import main

__all__ = ["main"]
