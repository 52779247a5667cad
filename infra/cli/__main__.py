"""The command line inside PAM's own environment."""

from infra.cli.app import main

main()
