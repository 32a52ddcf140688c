from django.urls import path, re_path

from apps.jobs.api import attempt_views, dataset_views, job_views, views

app_name = "api"

_VERSION = "datasets/<uuid:pk>/versions/<int:number>"

urlpatterns = [
    path("token", views.ObtainToken.as_view(), name="token"),
    path("projects", views.ProjectList.as_view(), name="projects"),
    path("projects/<slug:pk>", views.ProjectDetail.as_view(), name="project"),
    path("datasets", dataset_views.DatasetList.as_view(), name="datasets"),
    path("datasets/<uuid:pk>", dataset_views.DatasetDetail.as_view(), name="dataset"),
    path("datasets/<uuid:pk>/imports", dataset_views.DatasetImports.as_view(), name="dataset-imports"),
    path(_VERSION, dataset_views.VersionDetail.as_view(), name="version"),
    path(f"{_VERSION}/findings", dataset_views.VersionFindings.as_view(), name="version-findings"),
    path(f"{_VERSION}/findings.csv", dataset_views.VersionFindingsTable.as_view(), name="version-findings-csv"),
    path(f"{_VERSION}/diff", dataset_views.VersionDiff.as_view(), name="version-diff"),
    path(f"{_VERSION}/diff/<slug:change>", dataset_views.VersionDiffImages.as_view(), name="version-diff-images"),
    path("imports/<uuid:pk>", dataset_views.ImportDetail.as_view(), name="import"),
    path("imports/<uuid:pk>/parts", dataset_views.ImportParts.as_view(), name="import-parts"),
    path("imports/<uuid:pk>/parts/<int:number>", dataset_views.ImportPart.as_view(), name="import-part"),
    path("imports/<uuid:pk>/complete", dataset_views.ImportComplete.as_view(), name="import-complete"),
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
