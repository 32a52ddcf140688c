"""The cells of the job list. Each is one job said in a few words."""

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from apps.jobs.admin import words
from apps.jobs.models import Job
from apps.jobs.states import State
from apps.projects.admin import RightsAdmin

# A phone leaves cells out that hold nothing else.
NOTHING = format_html('<span class="ty-none">{}</span>', words.NOTHING)


class JobCells(RightsAdmin):
    """The columns; `list_display` says which and in what order."""

    @admin.display(description=gettext_lazy("job"), ordering="id")
    def name_and_project(self, job: Job) -> SafeString:
        return format_html(
            '<span class="ty-cell" data-row="{}" data-ended="{}"><b>#{} {}</b><small>{}</small></span>',
            job.pk,
            "yes" if job.ended else "",
            job.pk,
            job.name,
            job.project.name,
        )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_and_why(self, job: Job) -> SafeString:
        reason = words.why(job)
        return format_html(
            '<span class="ty-cell">{}<small class="ty-why" title="{}">{}</small></span>',
            state_label(job),
            reason,
            reason,
        )

    @admin.display(description=gettext_lazy("model"), ordering="model_name")
    def model_and_data(self, job: Job) -> SafeString:
        return format_html('<span class="ty-cell"><b>{}</b><small>{}</small></span>', job.model_name, dataset_link(job))

    @admin.display(description=gettext_lazy("progress"), ordering="fraction")
    def progress(self, job: Job) -> SafeString:
        if job.state == State.QUEUED or not (job.active or job.epoch):
            return NOTHING
        bar = progress_bar(job) if job.active else ""
        return format_html('<span class="ty-cell ty-progress">{}<small>{}</small></span>', bar, progress_words(job))

    @admin.display(description=gettext_lazy("best so far"))
    def best(self, job: Job) -> SafeString:
        if not job.best_scores:
            return NOTHING
        first, second = (f"{label} {words.score(value)}" for label, value in job.best_scores)
        return format_html('<span class="ty-cell"><b>{}</b><small>{}</small></span>', first, second)

    @admin.display(description=gettext_lazy("last seen"), ordering="last_message_at")
    def seen(self, job: Job) -> str:
        return words.ago(job.last_message_at) if job.last_message_at else NOTHING

    @admin.display(description=gettext_lazy("owner"), ordering="created_by__username")
    def owner(self, job: Job) -> str:
        return job.created_by.get_username() if job.created_by else NOTHING


def state_label(job: Job) -> SafeString:
    return format_html('<span class="ty-state ty-state-{}">{}</span>', job.state, job.get_state_display())


def progress_bar(job: Job) -> SafeString:
    label = _("Progress of job %(id)s") % {"id": job.pk}
    return format_html(
        '<progress class="ty-bar" value="{}" max="1" aria-label="{}">{}</progress>',
        f"{job.fraction:.4f}",
        label,
        words.percent(job.fraction),
    )


def progress_words(job: Job) -> str:
    """`58 % · epoch 7/12 · 3 min left`; an ended job says how many epochs it got through."""
    epochs = _("epoch %(done)s/%(all)s") % {"done": job.epoch, "all": job.epochs}
    if not job.active:
        return epochs
    return " · ".join(part for part in (words.percent(job.fraction), epochs, words.left(job)) if part)


def dataset_link(job: Job) -> SafeString:
    return format_html('<a class="ty-link" href="{}">{}</a>', version_url(job), job.dataset_version)


def version_url(job: Job) -> str:
    """The page of the dataset version that the job is pinned to."""
    return reverse("admin:storage_datasetversion_change", args=[job.dataset_version_id])
