"""The token a trainer carries: derived from the platform's own, good for one job and one attempt.

`ty1.<job>.<attempt>.<mac>`. Nothing is stored: the platform can check what it can derive.
"""

import hashlib
import hmac
from dataclasses import dataclass

from django.conf import settings

_PREFIX = "ty1"


@dataclass(frozen=True)
class Bearer:
    """Whom a token speaks for. The platform's own token speaks for every job: both fields are None."""

    job_id: int | None = None
    attempt: int | None = None


def token_for(job_id: int, attempt: int) -> str:
    return f"{_PREFIX}.{job_id}.{attempt}.{_mac(job_id, attempt)}"


def bearer_of(token: str) -> Bearer | None:
    """Whom `token` speaks for, or None where it is not one of ours. Compared in constant time."""
    if hmac.compare_digest(token.encode(), settings.INTERNAL_AUTH_TOKEN.encode()):
        return Bearer()
    prefix, _, rest = token.partition(".")
    numbers = rest.rpartition(".")[0]
    job, _, attempt = numbers.partition(".")
    if prefix != _PREFIX or not (_is_number(job) and _is_number(attempt)):
        return None
    # The whole of it, so that one job and attempt have one token: numbers can be written in several ways.
    if not hmac.compare_digest(token.encode(), token_for(int(job), int(attempt)).encode()):
        return None
    return Bearer(int(job), int(attempt))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _mac(job_id: int, attempt: int) -> str:
    message = f"trainyard callback {job_id} {attempt}".encode()
    return hmac.new(settings.INTERNAL_AUTH_TOKEN.encode(), message, hashlib.sha256).hexdigest()
