"""Calling the API, and reading its errors."""

from typing import Any

from django.contrib.auth.models import AbstractUser
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient


def api(user: AbstractUser | None = None) -> APIClient:
    """A client that sends the user's token, or none."""
    client = APIClient()
    if user is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.get_or_create(user=user)[0].key}")
    return client


def problem(response: Any, status: int) -> dict[str, Any]:
    """The body of an error, once it is seen to be an RFC 9457 problem."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    return body
