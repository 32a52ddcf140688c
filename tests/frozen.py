"""Versions made by hand: a tar in the store, and rows that point into it, with no import in between."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetVersion,
    FindingCount,
    ImageClass,
    Shard,
    StoredFile,
)
from apps.storage.stores import get_store
from trainer.contract.tasks import TaskType
from trainer.dataset.labels import parse
from trainer.dataset.layout import Description, Keypoints, label_path_of
from trainer.dataset.statistics import StatisticsBuilder, Tally


@dataclass(frozen=True)
class Picture:
    """A picture, its label, and the codes of what was found wrong with it. Of classification, the folder counts."""

    path: str
    data: bytes
    label: str | None = None
    codes: tuple[str, ...] = ()


def jpeg(width: int = 64, height: int = 48, colour: str = "steelblue") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(target, "JPEG")
    return target.getvalue()


def freeze(
    dataset: Dataset, pictures: Iterable[Picture], names: list[str], keypoints: Keypoints | None = None
) -> DatasetVersion:
    """The next version of `dataset`, which holds `pictures`."""
    pictures = sorted(pictures, key=lambda picture: picture.path)
    description = Description(TaskType(dataset.task_type), tuple(names), keypoints)
    places = _store(dataset, pictures)
    statistics = StatisticsBuilder(sorted({_split(picture) for picture in pictures}))
    number = dataset.versions.count() + 1
    version = DatasetVersion(
        dataset=dataset,
        number=number,
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        size=sum(len(picture.data) for picture in pictures),
        files=len(places),
        class_names=names,
        keypoints=description.to_json()["keypoints"],
        errors=sum(code.startswith("bad") for picture in pictures for code in picture.codes),
        warnings=sum(not code.startswith("bad") for picture in pictures for code in picture.codes),
    )
    rows = [_row(version, picture, places, description, statistics) for picture in pictures]
    version.statistics = dict(statistics.result())
    version.images, version.instances = dict(statistics.images), dict(statistics.instances)
    version.save()
    for image, class_ids, codes in rows:
        image.save()
        ImageClass.objects.bulk_create(ImageClass(image=image, version=version, class_id=each) for each in class_ids)
        for code in codes:
            _find(version, image, code)
    return version


def _find(version: DatasetVersion, image: DatasetImage, code: str) -> None:
    severity = "error" if code.startswith("bad") else "warning"
    told = {"severity": severity, "code": code, "message": f"This is {code}. Mend it.", "path": image.path, "line": 1}
    DatasetFinding.objects.create(version=version, image=image, **told)
    count, _made = FindingCount.objects.get_or_create(
        version=version, severity=severity, code=code, defaults={"number": 0}
    )
    FindingCount.objects.filter(pk=count.pk).update(number=count.number + 1)


def _store(dataset: Dataset, pictures: list[Picture]) -> dict[str, StoredFile]:
    """One shard with all of it. The rows by the digest of their bytes, those of earlier versions included."""
    known = {file.sha256: file for file in StoredFile.objects.filter(dataset=dataset)}
    contents = {}
    for picture in pictures:
        contents[picture.path] = picture.data
        if picture.label is not None:
            contents[label_path_of(picture.path)] = picture.label.encode()
    target, offsets = io.BytesIO(), {}
    with tarfile.open(fileobj=target, mode="w") as tar:
        for path, data in contents.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            offsets[path] = target.tell() + 512
            tar.addfile(member, io.BytesIO(data))
    whole = target.getvalue()
    key = f"datasets/{dataset.pk}/shards/{hashlib.sha256(whole).hexdigest()[:32]}.tar"
    get_store().put_bytes(key, whole)
    shard, _made = Shard.objects.get_or_create(key=key, defaults={"dataset": dataset, "sha256": "0" * 64, "size": 0})
    for path, data in contents.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest not in known:
            place = {"shard": shard, "offset": offsets[path], "size": len(data)}
            known[digest] = StoredFile.objects.create(dataset=dataset, sha256=digest, **place)
    return known


def _row(
    version: DatasetVersion,
    picture: Picture,
    places: dict[str, StoredFile],
    description: Description,
    statistics: StatisticsBuilder,
) -> tuple[DatasetImage, list[int], tuple[str, ...]]:
    split, (width, height) = _split(picture), _size(picture.data)
    statistics.add_image(split, width, height)
    if description.task_type == TaskType.IMAGE_CLASSIFICATION:
        class_ids = [description.class_names.index(picture.path.split("/")[2])]
        statistics.add_class(split, class_ids[0])
        number = 1
    else:
        instances, tally = parse(picture.label or "", description), Tally()
        for each in instances:
            tally.add(each, width, height)
        statistics.add_objects(split, tally)
        class_ids, number = sorted({each.class_id for each in instances}), len(instances)
    image = DatasetImage(
        version=version,
        path=picture.path,
        split=split,
        file=places[hashlib.sha256(picture.data).hexdigest()],
        label=None if picture.label is None else places[hashlib.sha256(picture.label.encode()).hexdigest()],
        width=width,
        height=height,
        instances=number,
    )
    return image, class_ids, picture.codes


def _split(picture: Picture) -> str:
    return picture.path.split("/")[1]


def _size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except OSError:
        return 0, 0
