"""Where a training starts from: the job's own weights, published ones, or none."""

import logging
from pathlib import Path

from trainer.contract.variables import TrainerEnvironment
from trainer.failures import WeightsMissingError
from trainer.store import ObjectStore

logger = logging.getLogger(__name__)


def find_weights(settings: TrainerEnvironment, store: ObjectStore, download_to: Path) -> Path | None:
    """The weights file to start from, or None to start from random weights.

    Looked for in this order: `WEIGHTS` (a file, or a key in the store), `weights/<MODEL_NAME>.pt` in the store,
    WEIGHTS_DIR, and where the network allows it the place where ultralytics publishes them.

    Raises:
        WeightsMissingError: `WEIGHTS` names nothing, or PRETRAINED is `required` and there is nothing to be had.
        StoreError: the store could not be asked.
    """
    if settings.WEIGHTS:
        return _named(settings.WEIGHTS, store, download_to)
    if settings.PRETRAINED == "never":
        logger.info("PRETRAINED is never: starting from random weights.")
        return None
    name = f"{settings.MODEL_NAME}.pt"
    found = _from_store(f"weights/{name}", store, download_to / name) or _from_folder(settings.WEIGHTS_DIR, name)
    found = found or _from_upstream(name, settings.WEIGHTS_DIR or download_to)
    if found is None and settings.PRETRAINED == "required":
        raise WeightsMissingError(
            f"PRETRAINED is required, and {name} is neither at {store.uri(f'weights/{name}')}, nor in "
            f"{settings.WEIGHTS_DIR or 'WEIGHTS_DIR (not set)'}, nor could it be downloaded."
        )
    if found is None:
        logger.warning("No published weights for %s can be had: starting from random weights.", settings.MODEL_NAME)
    else:
        logger.info("Starting from %s.", found)
    return found


def _named(weights: str, store: ObjectStore, download_to: Path) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    found = None if path.is_absolute() else _from_store(weights, store, download_to / path.name)
    if found is None:
        where = "" if path.is_absolute() else f", nor is there {store.uri(weights)}"
        raise WeightsMissingError(
            f"WEIGHTS is {weights!r}: that is no file here{where}. Correct it, or leave it empty."
        )
    return found


def _from_store(key: str, store: ObjectStore, path: Path) -> Path | None:
    if store.stat(key) is None:
        return None
    store.get_file(key, path)
    return path


def _from_folder(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_file() else None


def _from_upstream(name: str, folder: Path) -> Path | None:
    from trainer.yolo import download_published_weights

    return download_published_weights(name, folder)
