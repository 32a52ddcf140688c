"""Is the web process alive, and which installation is it?"""

import hashlib

from django.conf import settings
from django.http import HttpRequest, JsonResponse


def instance_id() -> str:
    """Names this installation without giving anything away: two on one machine can be told apart."""
    return hashlib.sha256(f"instance {settings.SECRET_KEY}".encode()).hexdigest()[:16]


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok", "instance": instance_id()})
