"""One event loop in a thread, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["BackgroundLoop"]


_selectors = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, selectors.BaseSelector]()


def _new_loop() -> asyncio.AbstractEventLoop:
    selector = selectors.DefaultSelector()
    loop = asyncio.SelectorEventLoop(selector)
    _selectors[loop] = selector
    return loop


def _leave_parent() -> None:
    """In a forked child: put a fresh epoll in the place of the inherited one.

    It is shared with the parent: a connection that is collected here, at exit at the latest, would be struck
    from the parent's list as well, and the parent would wait for its answers in vain. Other systems share
    nothing.
    """
    for selector in _selectors.values():
        if isinstance(selector, selectors.EpollSelector):
            with select.epoll() as fresh:
                os.dup2(fresh.fileno(), selector.fileno(), inheritable=False)


os.register_at_fork(after_in_child=_leave_parent)


class BackgroundLoop:
    """Runs coroutines for synchronous code; started by the first call, again in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, when it runs in this process."""
        return self._loop if self._pid == os.getpid() else None

    def run[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work()`, which runs on the loop of the thread.

        An interrupt of the waiting thread cancels the work.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a coroutine of the background loop must await, not use a *_sync method")
        future = asyncio.run_coroutine_threadsafe(work(), self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread; the next `run` starts another."""
        loop, thread = self.loop, self._thread
        self._loop = self._thread = None
        atexit.unregister(self.stop)
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():  # a forked child has the object, but neither thread nor lock
            self._pid, self._loop, self._lock = os.getpid(), None, threading.Lock()
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="taskq-sync", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
            return self._loop


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
