"""Comparing the rows of labels."""

from typing import Any

import pytest


def close(found: Any, wanted: Any) -> bool:
    """Whether the rows are the same to the fourth digit; the assertion that fails names the row."""
    assert len(found) == len(wanted)
    for row, want in zip(found, wanted, strict=True):
        assert row == pytest.approx(want, abs=1e-4)
    return True
