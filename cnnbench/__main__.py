"""``python -m cnnbench`` is the command line."""

from cnnbench.cli.app import main

main()
