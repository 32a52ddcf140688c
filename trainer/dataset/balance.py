"""What is wrong with a dataset as a whole, once all of its pictures were read."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from trainer.dataset.findings import Finding
from trainer.dataset.layout import IMAGES, REQUIRED_SPLITS

_SHOWN = 10
_FEWEST, _MOST = 2, 100  # the commonest class may be that many times as frequent as the rarest


def check_splits(images: Mapping[str, int]) -> list[Finding]:
    findings = []
    for split, number in images.items():
        if number == 0 and split in REQUIRED_SPLITS:
            message = f"There are no pictures in {IMAGES}/{split}. Put some there."
            findings.append(Finding("error", "split_empty", message))
        elif number == 0:
            message = f"There are no pictures in {IMAGES}/{split}, and it is left out. Remove it, or put some there."
            findings.append(Finding("warning", "split_empty", message))
    return findings


def check_objects(instances: Mapping[str, Counter[int]], names: Sequence[str]) -> list[Finding]:
    """Classes of a dataset with labels. `instances`: by split, how many of each class."""
    train, others = instances["train"], _outside_train(instances)
    findings = []
    if not train:
        message = "No object is labelled in train, so that nothing can be learnt. Add labels in labels/train."
        return [Finding("error", "nothing_labelled", message)]
    if not instances["val"]:
        message = "No object is labelled in val, so that all metrics will be 0. Add labels in labels/val."
        findings.append(Finding("warning", "nothing_labelled", message))
    unused = [name for number, name in enumerate(names) if not train[number] and not others[number]]
    if unused:
        message = f"Without any object: {_listed(unused)}. Label some, or drop the class."
        findings.append(Finding("warning", "class_without_objects", message))
    unseen = [_name(names, number) for number in sorted(others) if not train[number]]
    if unseen:
        message = f"Not in train, and yet in another split: {_listed(unseen)}. Move some pictures with it to train."
        findings.append(Finding("warning", "class_not_in_train", message))
    return [*findings, *_check_balance(train, instances["val"], names)]


def check_classes(images: Mapping[str, Counter[int]], names: Sequence[str]) -> list[Finding]:
    """Classes of a dataset for classification, whose folders have been looked at already."""
    findings = []
    if len(names) == 1:
        message = f"{names[0]} is the only class, and every picture will be told to be one. Add another."
        findings.append(Finding("warning", "one_class", message))
    return [*findings, *_check_balance(images["train"], images["val"], names)]


def _check_balance(train: Counter[int], val: Counter[int], names: Sequence[str]) -> list[Finding]:
    findings = []
    untried = [_name(names, number) for number in sorted(train) if not val[number]]
    if untried and val:
        message = f"In train and not in val: {_listed(untried)}. How well they are learnt cannot be seen; add some."
        findings.append(Finding("warning", "class_not_in_val", message))
    if len(train) >= _FEWEST:
        (most, times), (rarest, fewest) = train.most_common()[0], train.most_common()[-1]
        if times > _MOST * fewest:
            message = (
                f"In train, {_name(names, most)} occurs {times} times and {_name(names, rarest)} {fewest}: "
                "what is rare is hardly learnt. Add some of it."
            )
            findings.append(Finding("warning", "classes_imbalanced", message))
    return findings


def _outside_train(instances: Mapping[str, Counter[int]]) -> Counter[int]:
    return sum((counter for split, counter in instances.items() if split != "train"), start=Counter())


def _name(names: Sequence[str], class_id: int) -> str:
    return names[class_id] if class_id < len(names) else f"class {class_id}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
