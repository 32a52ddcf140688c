"""Secrets for a machine where nobody has set any: made once, kept in a file that only its owner reads."""

import os
import secrets
from pathlib import Path


def kept_secret(folder: Path, name: str) -> str:
    """The secret in `folder/name`, made on the first call. Two processes at once agree on one."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written aside and linked into place: a reader never sees half a secret, and the first link wins.
    # A random name: containers on one volume have the same process ids.
    draft = folder / f".{name}.{secrets.token_hex(8)}"
    if not path.exists():
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first; its secret counts
        finally:
            draft.unlink()
    return path.read_text().strip()
