"""`python -m orchestration.cli`: the `headwater` command without its script."""

from orchestration.cli import main

main()
