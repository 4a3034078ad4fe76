"""``python -m portmon``."""

from portmon.cli import main

main()
