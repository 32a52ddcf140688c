"""What can keep a dataset from being used.

DatasetError              anything that keeps a dataset from being used
+- DatasetInvalidError    its contents break the rules; the person who made it has to mend them
+- DatasetCorruptError    what the store holds is not what was packed; the store has to be looked at
"""


class DatasetError(Exception):
    """A dataset cannot be used; the message says why and what to do."""


class DatasetInvalidError(DatasetError):
    """The contents break the rules. The message has the first errors."""


class DatasetCorruptError(DatasetError):
    """What the store delivered differs from what was packed."""
