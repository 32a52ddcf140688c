"""What can keep a dataset from being used.

DatasetError              anything that keeps a dataset from being used
+- DatasetInvalidError    its contents break the rules; the person who made it has to mend them
+- DatasetCorruptError    what the store holds is not what was packed; the store has to be looked at
+- CacheError             the trainer's cache cannot be written; the machine has to be looked at
   +- CacheFullError      the disk of the cache is full
"""

from trainer.dataset.findings import DatasetReport

_SHOWN_ERRORS = 5


class DatasetError(Exception):
    """A dataset cannot be used; the message says why and what to do."""


class DatasetInvalidError(DatasetError):
    """The contents break the rules. The message has the first errors."""

    @classmethod
    def of(cls, report: DatasetReport) -> "DatasetInvalidError":
        shown = " ".join(str(finding) for finding in report.errors[:_SHOWN_ERRORS])
        more = report.total("error") - len(report.errors[:_SHOWN_ERRORS])
        rest = f" And {more} more." if more > 0 else ""
        return cls(f"The dataset cannot be trained on. {shown}{rest}")


class DatasetCorruptError(DatasetError):
    """What the store delivered differs from what was packed."""


class CacheError(DatasetError):
    """The cache cannot be written."""


class CacheFullError(CacheError):
    """The disk that holds the cache has no room for the dataset."""
