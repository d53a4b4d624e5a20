"""A task of your own. Run it: ./run --import examples.hello; call it: ./run submit hello name=you --wait."""

from taskq_core import TaskQ

app = TaskQ()


@app.task("hello")
async def hello(name: str = "world") -> str:
    """Greet somebody."""
    return f"hello, {name}"
