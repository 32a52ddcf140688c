"""Reading YAML that strangers wrote: small, flat and without references, or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20
_MAX_SCALAR = 1_000  # characters; numbers of millions of digits take minutes to read


def read_mapping(path: Path) -> Mapping[Any, Any]:
    """The mapping that `path` holds.

    Raises ValueError, saying why in words, for what is no YAML, no mapping, larger than 1 MiB, nested deeply, or
    repeats itself by references: a few lines of those stand for more data than any memory holds. Raises OSError.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError("it is larger than 1 MiB")
    try:
        text = data.decode("utf-8-sig")
        _refuse_bombs(text)
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    if not isinstance(content, Mapping):
        raise ValueError("it is not a mapping")
    return content


def _refuse_bombs(text: str) -> None:
    """Walk through the YAML before anything is built of it. The parser keeps no tree and does not recurse."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it repeats a part by reference (*name); write that part out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR:
            raise ValueError(f"it has a value of more than {_MAX_SCALAR} characters: {event.value[:40]!r}")


# libyaml's parser is many times as fast, but is not part of every build of PyYAML.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
