"""Run the command line: `python -m ldkit`."""

from ldkit.cli.app import main

main()
