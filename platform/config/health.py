"""Is the web process alive? Asked by process managers and by `make demo` before it submits."""

from django.http import HttpRequest, JsonResponse


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})
