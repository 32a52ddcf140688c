from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from apps.jobs.callback import callback
from config.health import healthz

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:jobs_job_changelist")),
    path("admin/", admin.site.urls),
    path("healthz", healthz, name="healthz"),
    path("internal/training/<int:job_id>", callback, name="training-callback"),
    path("api/v1/", include("apps.jobs.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="api-schema"), name="api-docs"),
]
