"""Turns what botocore raises into a StorageError: the object, the endpoint, a way out, and whether to try again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_trainer.storage.base import NotFound, StorageError

REASON_LIMIT = 300
"""Characters of the service's own words that are repeated."""

UNREACHABLE = "see whether the endpoint answers from here; spec.storage.endpoint or AWS_ENDPOINT_URL names it"
_NO_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; on a cluster, name a Secret that holds them in"
    " spec.storage.credentials"
)
_DENIED = "check the access key, and that it may read, write, list and delete below this prefix"

_NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.NoAuthTokenError,
    botocore.TokenRetrievalError,
    botocore.SSOError,
)
_MISCONFIGURED = (
    botocore.ParamValidationError,
    botocore.ProfileNotFound,
    botocore.ConfigParseError,
    botocore.ConfigNotFound,
    botocore.InvalidConfigError,
    botocore.UnsupportedS3ConfigurationError,
    botocore.EndpointProviderError,
)
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
"""Codes about credentials that come with status 400."""
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_ON_THE_WAY = {"RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
"""Codes about what the network or the service's load did to a request, which come with status 400."""


@contextmanager
def translated(action: str, where: str, endpoint: str) -> Iterator[None]:
    """Translate errors of the block, which tries to `action` the object or bucket `where` (its URI)."""
    try:
        yield
    except ClientError as error:
        raise of_answer(error, f"cannot {action} {where} at {clean(endpoint)}") from error
    except BotoCoreError as error:
        raise of_client(error, f"cannot {action} {where} at {clean(endpoint)}") from error


def code_of(error: ClientError) -> str:
    """The service's code; a reply without content (to HEAD) has its status there: `404`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status, 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def is_missing(error: ClientError) -> bool:
    """Whether a read found no object: the service says so, or nothing but 404."""
    reads = error.operation_name in ("GetObject", "HeadObject")
    return reads and status_of(error) == 404 and code_of(error) in ("NoSuchKey", "NotFound", "404", "")


def of_answer(error: ClientError, what: str) -> StorageError:
    """What a refusal of the service means; `what` begins the message."""
    code, status = code_of(error), status_of(error)
    said = str(error.response.get("Error", {}).get("Message", ""))
    message = f"{what}: {clean(f'{code} ({said})', REASON_LIMIT)}"
    if code == "NoSuchBucket" or (status == 404 and error.operation_name == "ListObjectsV2"):
        return StorageError(
            f"{what}: there is no such bucket",
            remedy="create the bucket, or correct the URI",
            exit_code=ExitCode.INPUT_MISSING,
        )
    if is_missing(error):
        return NotFound(f"{what}: there is no such object")
    if code == "InvalidBucketName":
        return StorageError(
            f"{what}: this cannot be the name of a bucket",
            remedy="correct the URI: s3://BUCKET/PREFIX",
            exit_code=ExitCode.CONFIGURATION,
        )
    if code == "RequestTimeTooSkewed":
        return StorageError(message, remedy="set the clock of this machine", exit_code=ExitCode.CREDENTIALS)
    if status in (401, 403) or code in _EXPIRED:
        return StorageError(message, remedy=_DENIED, exit_code=ExitCode.CREDENTIALS)
    if code in _ELSEWHERE or status == 301:
        remedy = "set spec.storage.region, or AWS_REGION, to the bucket's region"
        return StorageError(message, remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    if status in (400, 405, 501) and code not in _ON_THE_WAY:
        remedy = "see spec.storage (checksums, addressing) for services that do not speak all of S3"
        return StorageError(message, remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    return StorageError(message, remedy="the service has a problem; try again later")


def of_client(error: BotoCoreError, what: str) -> StorageError:
    """What it means that no request could be made, or no reply came that can be used; `what` begins the message."""
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError(f"{what}: {_reason(error)}", remedy=_NO_KEYS, exit_code=ExitCode.CREDENTIALS)
    if isinstance(error, _MISCONFIGURED):
        remedy = "correct spec.storage, the URI, or the AWS_ variables"
        return StorageError(f"{what}: {_reason(error)}", remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    return StorageError(f"{what}: {_reason(error)}", remedy=UNREACHABLE)


def _reason(error: BotoCoreError) -> str:
    """The cause below botocore's own words, which repeat the address, where it is known."""
    cause = error.kwargs.get("error")
    text = str(error) if cause is None else f"no connection ({str(cause).partition('): ')[2] or cause})"
    return clean(text, REASON_LIMIT)
