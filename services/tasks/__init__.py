"""The tasks that `taskq up` always knows: pictures, web pages, and a demonstration of every outcome."""

from services.tasks.register import register
from taskq_core import TaskQ

__all__ = ["app", "register"]

app = TaskQ()
register(app)
