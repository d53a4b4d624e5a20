"""`taskq`, the one command: `main` is its entry."""

from services.cli.entry import main

__all__ = ["main"]
