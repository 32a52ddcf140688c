"""What an S3 service's refusal means, and which setting mends it."""

from collections.abc import Mapping

from trainer.store import (
    BucketMissingError,
    ObjectMissingError,
    S3StoreSettings,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    UploadMissingError,
)

# Endpoint, key, secret and bucket: by which variables a person set them.
VARIABLES = {
    "minio": ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET"),
    "r2": ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET"),
}
_BY_CODE: Mapping[str, type[StoreError]] = {
    "NoSuchKey": ObjectMissingError,
    "NoSuchUpload": UploadMissingError,
    "NoSuchBucket": BucketMissingError,
    "InvalidBucketName": BucketMissingError,
    "AccessDenied": StoreDeniedError,
    "AuthorizationHeaderMalformed": StoreDeniedError,
    "RequestTimeTooSkewed": StoreDeniedError,
    "QuotaExceeded": StoreFullError,
    "InsufficientCapacity": StoreFullError,
    "XMinioStorageFull": StoreFullError,
    "XMinioAdminBucketQuotaExceeded": StoreFullError,
    "SlowDown": StoreUnreachableError,
    "RequestTimeout": StoreUnreachableError,
    "NotImplemented": StoreError,
}
_BY_STATUS: Mapping[int, type[StoreError]] = {
    401: StoreDeniedError,
    403: StoreDeniedError,
    404: ObjectMissingError,
    408: StoreUnreachableError,
    429: StoreUnreachableError,
    507: StoreFullError,
}


def kind_of(code: str, status: int) -> type[StoreError]:
    """The error's class: by S3's code where that is known, then by the HTTP status."""
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (StoreUnreachableError if status >= 500 else StoreError)


def explained(settings: S3StoreSettings, kind: type[StoreError], why: str, verb: str, key: str) -> StoreError:
    endpoint, access, secret, bucket = VARIABLES[settings.type]
    mend = {
        ObjectMissingError: f"It was deleted, or {bucket} names another bucket.",
        UploadMissingError: "It was completed or given up. Start a new one.",
        BucketMissingError: f"Create the bucket, or correct {bucket}.",
        StoreDeniedError: f"Check {access} and {secret}, what they may do, and this machine's clock.",
        StoreUnreachableError: f"Check {endpoint} and that the service is up; then try again.",
        StoreFullError: "Free space in the store or raise its quota.",
    }.get(kind, f"Check {endpoint} and {bucket}.")
    return kind(f"Cannot {verb} {key} in bucket {settings.bucket} at {settings.endpoint}: {why.rstrip('.')}. {mend}")
