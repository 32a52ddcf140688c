"""What can go wrong with a dataset on the platform's side."""


class StorageError(Exception):
    """Base of this app's errors; the message is meant for people."""


class NoSuchDatasetError(StorageError):
    """No dataset by that name or id, or none that may be seen."""


class NotADatasetError(StorageError):
    """A folder or archive that does not hold a dataset that can be trained on."""
