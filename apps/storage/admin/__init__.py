"""Datasets in the admin: how data comes in, what its versions hold, and what is wrong with it.

dataset    the list, the form for a new one, the page of each     importing   the imports on that page
version    a version's addresses                                   seeing      what its pages show
gallery    which pictures a page of the gallery has                comparing   two versions beside each other
pictures   the pictures themselves                                 thumbnails  small ones, made and kept
overlay    labels as they are read                                 drawing     labels as they are drawn
reading    bytes out of shards                                     histograms  statistics as bars
"""

from apps.storage.admin.dataset import DatasetAdmin
from apps.storage.admin.version import VersionAdmin

__all__ = ["DatasetAdmin", "VersionAdmin"]
