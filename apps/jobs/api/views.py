"""Tokens and projects."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.authtoken.serializers import AuthTokenSerializer
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.exceptions import NotFound
from rest_framework.generics import ListAPIView, RetrieveAPIView
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle
from rest_framework.views import APIView

from apps.jobs.api.pagination import ByName
from apps.jobs.api.schema import problems
from apps.jobs.api.serializers import ProjectSerializer
from apps.projects.models import Project
from apps.projects.rights import projects_of


class TokenAnswer(serializers.Serializer[Any]):
    token = serializers.CharField()


class TokenThrottle(AnonRateThrottle):
    """Slows down whoever guesses passwords."""

    scope = "token"
    rate = "30/min"


class ObtainToken(ObtainAuthToken):
    # A stale token or cookie sent along must not keep anybody from a new one.
    authentication_classes = ()
    throttle_classes = (TokenThrottle,)
    parser_classes = (JSONParser, FormParser, MultiPartParser)

    @extend_schema(
        operation_id="token_obtain",
        summary="Get a token",
        description="Send it with every request: `Authorization: Token …`. The same one is returned until an "
        "operator deletes it.",
        tags=["auth"],
        auth=[],
        request=AuthTokenSerializer,
        responses={200: TokenAnswer, **problems(400, 429, anybody=True)},
    )
    def post(self, request: Request) -> Response:
        return super().post(request)


@extend_schema_view(
    get=extend_schema(
        summary="List projects", tags=["projects"], responses={200: ProjectSerializer(many=True), **problems(400)}
    )
)
class ProjectList(ListAPIView[Project]):
    """The projects that you are a member of."""

    queryset = Project.objects.none()
    serializer_class = ProjectSerializer
    pagination_class = ByName
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Project]:
        return projects_of(self.request.user)


@extend_schema_view(
    get=extend_schema(summary="Show a project", tags=["projects"], responses={200: ProjectSerializer, **problems(404)})
)
class ProjectDetail(RetrieveAPIView[Project]):
    queryset = Project.objects.none()
    serializer_class = ProjectSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Project]:
        return projects_of(self.request.user)


@extend_schema(exclude=True)
class NoSuchAddress(APIView):
    """Answers whatever no other address does, so that this error is a problem like any other."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        raise NotFound
