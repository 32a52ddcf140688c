from collections.abc import Iterator

import pytest

from servers.installation import Installation


@pytest.fixture(scope="module")
def _embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("embedded")).running() as installation:
        yield installation


@pytest.fixture
def embedded(_embedded: Installation) -> Installation:
    """The embedded default, running: SQLite, a folder, the broker that needs no server."""
    if not _embedded.answers():  # a test that failed while it was stopped must not fail the others
        _embedded.start()
    return _embedded
