from collections.abc import Iterator

import pytest

from servers.installation import Installation


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The embedded default, running: SQLite, a folder, the broker that needs no server."""
    with Installation(tmp_path_factory.mktemp("embedded")).running() as installation:
        yield installation
