"""Writing in a background thread during training."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs one action at a time in a separate thread; the next `check`, `submit` or `wait` raises
    its error.

    The interpreter does not exit before the action has finished.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether an action is running."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise the error of a finished action, without waiting for a running one."""
        if not self.busy:
            self.wait()

    def submit(self, action: Callable[[], object]) -> None:
        """Wait for the previous action, then start `action`."""
        self.wait()

        def run() -> None:
            try:
                action()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the action to finish; raise its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
