"""The `headwater` command: app.py puts it together, each family of commands has a file here."""


def main() -> None:
    """What `headwater` and `python -m orchestration.cli` start."""
    from orchestration.cli.app import main as start  # with all that it imports: others only use a module of this room

    start()
