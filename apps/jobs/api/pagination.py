"""Pages by cursor. Rows that come or go between two pages make it neither skip nor repeat another row."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.core import signing
from django.db.models import Q
from django.utils.translation import gettext as _
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

PAGE_SIZE, MAX_PAGE_SIZE = 50, 200
_SALT = "trainyard.api.cursor"


class KeysetPagination(BasePagination):
    """Goes on after the last row's key. REST framework's own cursor counts rows of equal first field instead,
    which fails on a thousand jobs of one priority.

    `orderings` maps what `?ordering=` may be to columns, the last of them unique; the first is the default.
    """

    orderings: Mapping[str, Sequence[str]] = {"-id": ("-id",)}

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self._request = request
        self._ordering = self._asked_ordering(request)
        columns = self.orderings[self._ordering]
        rows = queryset.order_by(*columns)
        if cursor := request.query_params.get("cursor"):
            rows = rows.filter(_beyond(columns, self._key(cursor)))
        size = _asked_size(request)
        page = list(rows[: size + 1])
        self._last = page[size - 1] if len(page) > size else None
        return page[:size]

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self._next_link(), "results": data})

    def _asked_ordering(self, request: Request) -> str:
        asked = request.query_params.get("ordering") or next(iter(self.orderings))
        if asked not in self.orderings:
            raise ValidationError({"ordering": [_("Use one of: %s.") % ", ".join(self.orderings)]})
        return asked

    def _key(self, cursor: str) -> list[Any]:
        # Signed, so that what reaches the query is what a page ended with.
        try:
            ordering, key = signing.loads(cursor, salt=_SALT)
        except signing.BadSignature as error:
            raise ValidationError({"cursor": [_("Take it from `next` of another page.")]}) from error
        if ordering != self._ordering:
            raise ValidationError({"cursor": [_("It belongs to another ordering.")]})
        return list(key)

    def _next_link(self) -> str | None:
        if self._last is None:
            return None
        key = [_plain(getattr(self._last, column.lstrip("-"))) for column in self.orderings[self._ordering]]
        cursor = signing.dumps([self._ordering, key], salt=_SALT)
        return replace_query_param(self._request.build_absolute_uri(), "cursor", cursor)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        following = {
            "type": ["string", "null"],
            "format": "uri",
            "description": "The next page; null on the last one.",
        }
        return {
            "type": "object",
            "required": ["next", "results"],
            "properties": {"next": following, "results": schema},
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        size = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": PAGE_SIZE}
        ordering = {"type": "string", "enum": list(self.orderings), "default": next(iter(self.orderings))}
        return [
            _parameter("cursor", "Where the page begins; taken from `next`.", {"type": "string"}),
            _parameter("page_size", f"Rows on a page: {PAGE_SIZE} by itself, {MAX_PAGE_SIZE} at most.", size),
            _parameter("ordering", "What comes first; `-` is descending.", ordering),
        ]


class ByName(KeysetPagination):
    orderings = {"name": ("name", "pk"), "-name": ("-name", "-pk")}


class JobPagination(KeysetPagination):
    orderings = {
        "-id": ("-id",),
        "id": ("id",),
        "-priority": ("-priority", "-id"),
        "priority": ("priority", "-id"),
    }


def _asked_size(request: Request) -> int:
    text = request.query_params.get("page_size") or str(PAGE_SIZE)
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MAX_PAGE_SIZE):
        raise ValidationError({"page_size": [_("Use a number from 1 to %s.") % MAX_PAGE_SIZE]})
    return int(text)


def _beyond(columns: Sequence[str], key: Sequence[Any]) -> Q:
    """The rows that come after the one with `key`: greater in a column and equal in all those before it."""
    found, equal = Q(), Q()
    for column, value in zip(columns, key, strict=True):
        name = column.lstrip("-")
        found |= equal & Q(**{f"{name}__{'lt' if column.startswith('-') else 'gt'}": value})
        equal &= Q(**{name: value})
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)


def _parameter(name: str, about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}
