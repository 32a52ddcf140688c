"""What can go wrong with a dataset on the platform's side. Messages are meant for people.

StorageError
+- NoSuchDatasetError      no dataset by that name or id, or none that may be seen
+- NotADatasetError        a folder or archive that holds no dataset that can be trained on
+- HostileArchiveError     an archive that would harm the platform if it were unpacked
+- ArchiveError            an archive that cannot be unpacked: no archive that is known, or one without files
|  +- DamagedArchiveError  it is cut short, or its checksums do not agree with what it holds
|  +- NoRoomError          the disk was full before all was unpacked
+- InvalidUploadError      an upload that cannot be begun or taken as asked
+- NotPermittedError       the person has no right to do this to that
+- WrongStateError         an import that has moved on; what was asked is not possible any more
+- VersionInUseError       a version that jobs rely on was to be deleted
+- SourceError             what was to be imported could not be read or fetched
"""


class StorageError(Exception):
    """Base of this app's errors."""


class NoSuchDatasetError(StorageError):
    """No dataset by that name or id, or none that may be seen."""


class NoSuchVersionError(StorageError):
    """The dataset has no version of that number."""


class NotADatasetError(StorageError):
    """A folder or archive that does not hold a dataset that can be trained on."""


class HostileArchiveError(StorageError):
    """An archive that must not be unpacked: it reaches outside its folder, or is out of all proportion."""


class InvalidUploadError(StorageError):
    """An upload cannot be begun or taken as asked. `problems` maps each field to what is wrong with it."""

    def __init__(self, problems: dict[str, list[str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {text}" for field, texts in problems.items() for text in texts))


class NotPermittedError(StorageError):
    """The person has no right to do this to that."""


class WrongStateError(StorageError):
    """The import is in a state in which this cannot be done."""


class VersionInUseError(StorageError):
    """Jobs rely on the version; the message names them."""


class SourceError(StorageError):
    """What was to be imported cannot be read or fetched."""


class ArchiveError(StorageError):
    """An archive that cannot be unpacked."""


class DamagedArchiveError(ArchiveError):
    """An archive that is cut short, or whose checksums do not agree with what it holds."""


class NoRoomError(ArchiveError):
    """The disk was full before all was unpacked."""
