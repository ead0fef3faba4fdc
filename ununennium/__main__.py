"""``python -m ununennium`` is the command ``ununennium``, where its script is not on the path."""

from ununennium.cli import main

main()
