from django.urls import path, re_path

from apps.jobs.api import attempt_views, job_views, views

app_name = "api"

urlpatterns = [
    path("token", views.ObtainToken.as_view(), name="token"),
    path("projects", views.ProjectList.as_view(), name="projects"),
    path("projects/<slug:pk>", views.ProjectDetail.as_view(), name="project"),
    path("datasets", views.DatasetList.as_view(), name="datasets"),
    path("datasets/<uuid:pk>", views.DatasetDetail.as_view(), name="dataset"),
    path("jobs", job_views.JobList.as_view(), name="jobs"),
    path("jobs/<int:job_id>", job_views.JobDetail.as_view(), name="job"),
    path("jobs/<int:job_id>/cancel", job_views.JobCancel.as_view(), name="job-cancel"),
    path("jobs/<int:job_id>/retry", job_views.JobRetry.as_view(), name="job-retry"),
    path("jobs/<int:job_id>/clone", job_views.JobClone.as_view(), name="job-clone"),
    path("jobs/<int:job_id>/metrics", attempt_views.JobMetrics.as_view(), name="job-metrics"),
    path("jobs/<int:job_id>/events", attempt_views.JobEvents.as_view(), name="job-events"),
    path("jobs/<int:job_id>/logs", attempt_views.JobLogs.as_view(), name="job-logs"),
    path("jobs/<int:job_id>/artifacts", attempt_views.JobArtifacts.as_view(), name="job-artifacts"),
    path(
        "jobs/<int:job_id>/artifacts/<int:artifact_id>/download",
        attempt_views.ArtifactDownload.as_view(),
        name="artifact-download",
    ),
    re_path("", views.NoSuchAddress.as_view()),
]
