"""Jobs in the admin: an operations console.

job      the list, the form for a new job, the page of each, who may do what
cells    the columns of the list                filters  what the list is narrowed by
actions  what can be done to jobs               forms    what is asked for a new one
page     what a job's page shows                live     the addresses below it
curves   its metrics, as charts and a table     logs     its trainer's log
"""

from apps.jobs.admin.job import JobAdmin

__all__ = ["JobAdmin"]
