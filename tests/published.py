"""Datasets as people publish them, for tests that read real ones. The project ships none of their content."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def published(name: str) -> Path:
    """The archive `name` (coco8.zip, coco8-seg.zip, coco8-pose.zip, dota8.zip, imagenet10.zip).

    Looked for in PUBLISHED_DATASETS, or in `shared/data` beside the project; the test is skipped where it is absent.
    """
    path = Path(os.environ.get("PUBLISHED_DATASETS", _BESIDE)) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: set PUBLISHED_DATASETS to a folder with ultralytics' published {name}")
    return path
