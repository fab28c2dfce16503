"""``python -m pausedata``."""

from pausedata.cli import main

main()
