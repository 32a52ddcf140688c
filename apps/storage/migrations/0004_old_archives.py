"""Versions from before there were manifests lie in the store as one archive, which no trainer reads any more."""

from django.db import migrations

MESSAGE = "Its data was stored by an earlier release, as one archive. Import the data again to train on it."


def refuse_old_archives(apps, schema_editor):
    get = apps.get_model
    for version in get("storage", "DatasetVersion").objects.filter(dataset_images=None, files=0):
        kind = {"version": version, "severity": "error", "code": "import_again"}
        get("storage", "DatasetFinding").objects.create(message=MESSAGE, **kind)
        get("storage", "FindingCount").objects.create(number=1, **kind)
        version.errors = 1
        version.save(update_fields=["errors"])


class Migration(migrations.Migration):

    dependencies = [("storage", "0003_complete_versions")]

    operations = [migrations.RunPython(refuse_old_archives, migrations.RunPython.noop)]
