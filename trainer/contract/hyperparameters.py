"""The free hyper-parameters: ultralytics' training arguments by name, typed and bounded.

They travel as one JSON object in `HYPERPARAMETERS`. The names and meanings are ultralytics' own
(https://docs.ultralytics.com/usage/cfg); a test holds this table against the installed version. Arguments
that have a variable of their own (epochs, batch, lr0, imgsz, seed) or that the trainer decides (paths,
device, resume) are not among them.
"""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
Gain = Annotated[float, Field(ge=0, le=1000)]

DEFAULT_OPTIMIZER = "AdamW"


class Hyperparameters(BaseModel):
    """Every field is optional: what is not given keeps ultralytics' default."""

    # Strict: what is stored is what ultralytics is handed, and it takes no text for a number, nor true for 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # `auto` is refused: it silently ignores the learning rate.
    optimizer: Literal["SGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "MuSGD"] | None = Field(
        None,
        description=f"Optimizer; {DEFAULT_OPTIMIZER} unless given. `auto` ignores the rate, so it is refused",
    )
    lrf: Fraction | None = Field(None, description="Final learning rate as a fraction of the first")
    momentum: Fraction | None = Field(None, description="SGD momentum, or Adam's beta1")
    weight_decay: Fraction | None = Field(None, description="Weight decay (L2)")
    warmup_epochs: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="Epochs of warm-up")
    warmup_momentum: Fraction | None = Field(None, description="Momentum at the start of warm-up")
    warmup_bias_lr: Fraction | None = Field(None, description="Learning rate of biases at the start of warm-up")
    cos_lr: bool | None = Field(None, description="Cosine learning-rate schedule instead of a linear one")
    patience: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        None, description="Stop after so many epochs without a better validation; 0 never stops early"
    )
    nbs: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Nominal batch size that gradients are accumulated up to"
    )
    close_mosaic: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        None, description="Switch mosaic off for the last so many epochs"
    )
    freeze: Annotated[int, Field(ge=0, le=1000)] | list[int] | None = Field(
        None, description="Freeze the first N layers, or the layers listed"
    )
    amp: bool | Literal["fp16", "bf16", "fp32"] | None = Field(None, description="Mixed precision on a GPU")
    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Share of train images used")
    multi_scale: Fraction | None = Field(None, description="Vary the image size by this fraction")
    rect: bool | None = Field(None, description="Rectangular batches")
    single_cls: bool | None = Field(None, description="Treat all classes as one")
    deterministic: bool | None = Field(None, description="Deterministic operations: reproducible, may be slower")
    # Not "disk": it writes decoded pictures into the cache of datasets, which jobs share and which has a limit.
    cache: bool | Literal["ram"] | None = Field(None, description="Keep decoded images in memory")
    workers: Annotated[int, Field(ge=0, le=64)] | None = Field(None, description="Data loader processes (GPU only)")
    plots: bool | None = Field(None, description="Draw the plots at the end")
    val: bool | None = Field(None, description="Validate after every epoch")
    compile: bool | None = Field(None, description="torch.compile the model")
    dropout: Fraction | None = Field(None, description="Dropout of the classification head")
    box: Gain | None = Field(None, description="Weight of the box loss")
    cls: Gain | None = Field(None, description="Weight of the class loss")
    cls_pw: Fraction | None = Field(None, description="Power of class weights against imbalance")
    dfl: Gain | None = Field(None, description="Weight of the distribution focal loss")
    pose: Gain | None = Field(None, description="Weight of the keypoint loss")
    kobj: Gain | None = Field(None, description="Weight of the keypoint objectness loss")
    rle: Gain | None = Field(None, description="Weight of the residual log-likelihood loss (pose)")
    angle: Gain | None = Field(None, description="Weight of the angle loss (oriented boxes)")
    overlap_mask: bool | None = Field(None, description="Merge masks of one image (segmentation)")
    mask_ratio: Annotated[int, Field(ge=1, le=32)] | None = Field(None, description="Mask downsampling (segmentation)")
    hsv_h: Fraction | None = Field(None, description="Hue augmentation")
    hsv_s: Fraction | None = Field(None, description="Saturation augmentation")
    hsv_v: Fraction | None = Field(None, description="Brightness augmentation")
    degrees: Annotated[float, Field(ge=0, le=180)] | None = Field(None, description="Rotation, degrees either way")
    translate: Fraction | None = Field(None, description="Translation, fraction of the image")
    scale: Fraction | None = Field(None, description="Scaling, fraction either way")
    shear: Annotated[float, Field(ge=0, le=180)] | None = Field(None, description="Shear, degrees either way")
    perspective: Annotated[float, Field(ge=0, le=0.001)] | None = Field(None, description="Perspective")
    flipud: Fraction | None = Field(None, description="Chance of a vertical flip")
    fliplr: Fraction | None = Field(None, description="Chance of a horizontal flip")
    bgr: Fraction | None = Field(None, description="Chance of swapped colour channels")
    mosaic: Fraction | None = Field(None, description="Chance of mosaic augmentation")
    mixup: Fraction | None = Field(None, description="Chance of mixup augmentation")
    cutmix: Fraction | None = Field(None, description="Chance of cutmix augmentation")
    copy_paste: Fraction | None = Field(None, description="Share of objects copied and pasted (segmentation)")
    copy_paste_mode: Literal["flip", "mixup"] | None = Field(None, description="How objects are copied")
    auto_augment: Literal["randaugment", "autoaugment", "augmix"] | None = Field(
        None, description="Augmentation policy (classification)"
    )
    erasing: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="Chance of erasing (classification)")

    def given(self) -> dict[str, Any]:
        """Only what was set, ready to be handed to ultralytics."""
        return self.model_dump(exclude_none=True)


def hyperparameter_problems(values: object) -> list[str]:
    """Every problem of `values` in words, each naming the parameter; an unknown one with the nearest name."""
    if not isinstance(values, dict):
        return ['hyper-parameters must be a JSON object of names and values, such as {"mosaic": 0}']
    try:
        Hyperparameters.model_validate(values)
    except ValidationError as error:
        return list(dict.fromkeys(_in_words(str(*e["loc"][:1]), e["type"], e["msg"]) for e in error.errors()))
    return []


_OWN_VARIABLE = {
    "epochs": "EPOCHS",
    "batch": "BATCH_SIZE",
    "lr0": "LEARNING_RATE",
    "imgsz": "IMAGE_SIZE",
    "seed": "SEED",
    "pretrained": "PRETRAINED",
    "model": "MODEL_NAME",
    "data": "DATASET_ID",
}


def _in_words(name: str, kind: str, message: str) -> str:
    if kind != "extra_forbidden":
        hint = " (`auto` would ignore the learning rate: name one)" if name == "optimizer" else ""
        return f"{name}: {message[0].lower()}{message[1:]}{hint}"
    if name in _OWN_VARIABLE:
        return f"{name}: has a setting of its own, {_OWN_VARIABLE[name]}; set that instead"
    near = get_close_matches(name, Hyperparameters.model_fields, n=1, cutoff=0.5)
    return f"{name}: no such hyper-parameter" + (f"; did you mean {near[0]}?" if near else "")
