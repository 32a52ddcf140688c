"""Something that retention would delete."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Removal(ABC):
    """`what` and `why` are for people; `size` are the bytes that come free, 0 where that cannot be told."""

    what: str
    why: str
    size: int

    @abstractmethod
    def remove(self) -> bool:
        """Delete it; False where it has come into use since it was planned. Doing it again changes nothing.

        Raises:
            StoreError, ExecutorError, OSError: it is still there, in whole or in part.
        """
