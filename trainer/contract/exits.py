"""How a trainer may end: its exit codes, the classes of failure, and what a person does about each."""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the trainer. Where sysexits.h has a meaning for the case, its number is used."""

    SUCCEEDED = 0
    CRASHED = 70
    BAD_CONFIGURATION = 78
    BAD_DATA = 65
    WEIGHTS_MISSING = 66
    STORE_UNREACHABLE = 69
    STORE_DENIED = 77
    DISK_FULL = 73
    GPU_OUT_OF_MEMORY = 71
    DIVERGED = 72
    INTERRUPTED = 75
    SUPERSEDED = 76


class FailureReason(StrEnum):
    """The class of a failure, as a trainer reports it in `failed`."""

    BAD_CONFIGURATION = "bad_configuration"
    BAD_DATA = "bad_data"
    WEIGHTS_MISSING = "weights_missing"
    STORE_UNREACHABLE = "store_unreachable"
    STORE_DENIED = "store_denied"
    DISK_FULL = "disk_full"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    DIVERGED = "diverged"
    CRASHED = "crashed"


EXIT_CODE: dict[FailureReason, ExitCode] = {reason: ExitCode[reason.name] for reason in FailureReason}
REASON: dict[ExitCode, FailureReason] = {code: reason for reason, code in EXIT_CODE.items()}

ADVICE: dict[FailureReason, str] = {
    FailureReason.BAD_CONFIGURATION: "Correct the settings named in the message and submit the job again.",
    FailureReason.BAD_DATA: "Mend the files named in the message, make a new dataset version, and train on that.",
    FailureReason.WEIGHTS_MISSING: (
        "Put the weights file where the message says, or ask for others (WEIGHTS, PRETRAINED)."
    ),
    FailureReason.STORE_UNREACHABLE: (
        "Check that the object store runs and that its endpoint can be reached from where the trainer runs; then retry."
    ),
    FailureReason.STORE_DENIED: "Check the store's access key, secret key and bucket; then retry.",
    FailureReason.DISK_FULL: "Free space on the trainer's disk, or give it a larger one; then retry.",
    FailureReason.GPU_OUT_OF_MEMORY: "Lower the batch size or the image size, or lease a larger GPU.",
    FailureReason.DIVERGED: "The loss became NaN or infinite: lower the learning rate, or try another optimizer.",
    FailureReason.CRASHED: "Read the traceback at the end of the log; if it is not yours to mend, report it.",
}
