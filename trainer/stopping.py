"""How a training is told to stop: by a signal, or by the platform's answer."""

import logging
import os
import signal
import threading
from types import FrameType

from trainer.contract.exits import ExitCode

logger = logging.getLogger(__name__)


class StopTrainingError(Exception):
    """Raised between two batches once a stop was asked for; carries who asked."""


class Stop:
    """Set once, by whoever asks first; looked at between batches."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.by = ""
        self.superseded = False

    def ask(self, by: str, *, superseded: bool = False) -> None:
        if not self._asked.is_set():
            self.by, self.superseded = by, superseded
            self._asked.set()
            logger.warning("Told to stop by %s; finishing the step under way.", by)

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def check(self, *_: object) -> None:
        """Raise StopTrainingError where a stop was asked for. Takes whatever a callback is given."""
        if self._asked.is_set():
            raise StopTrainingError(self.by)

    def listen_to_signals(self) -> None:
        """SIGTERM and SIGINT stop in order; a second one ends the process at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._asked.is_set():
                os._exit(ExitCode.INTERRUPTED)
            self.ask(signal.Signals(number).name)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
