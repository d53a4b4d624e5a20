"""The tasks that `taskq up` always knows: pictures, web pages, and a demonstration of every outcome."""

from services.tasks.register import register

__all__ = ["register"]
