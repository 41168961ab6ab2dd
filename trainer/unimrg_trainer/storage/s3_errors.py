"""Turns what botocore raises into a StorageError: the object, the endpoint, a remedy, and whether to try again.

Only what may pass by itself is an outage (UNAVAILABLE). What a person has to change is not: keys, addresses,
certificates, the scheme of the endpoint, and checksums that the service does not support.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_trainer.storage.base import NotFound, StorageError

REASON_LIMIT = 300
"""Characters of the service's own message that are repeated."""
UNREACHABLE = (
    "see whether the endpoint (spec.storage.endpoint or AWS_ENDPOINT_URL) answers from here, and whether it begins with"
    " http:// or https:// as its port does"
)
CHECKSUMS = "if this service does not support the checksums that boto3 adds, set spec.storage.checksums: WhenRequired"
_NO_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; on a cluster, name a Secret that holds them in"
    " spec.storage.credentials"
)
_REGION = "set spec.storage.region, or AWS_REGION, to the bucket's region"
_DENIED = "check the access key, and that it may read, write, list and delete below this prefix"
_TLS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted: set AWS_CA_BUNDLE to a file with the certificates of"
    " the authority that signed it, or use the host name that it is for",
    "WRONG_VERSION_NUMBER|RECORD_LAYER|PACKET_LENGTH": "this port does not speak TLS: use http:// or another port",
    "Errno 2|X509": "let AWS_CA_BUNDLE name a file of certificates in PEM",
}
"""What OpenSSL reports of a failed handshake → remedy; whatever else it reports may be an outage."""

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
_CERTAIN = {
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), (ExitCode.CREDENTIALS, _DENIED)),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        (ExitCode.CONFIGURATION, _REGION),
    ),
    "RequestTimeTooSkewed": (ExitCode.CREDENTIALS, "set the clock of this machine"),
    "InvalidBucketName": (ExitCode.CONFIGURATION, "correct the name of the bucket: s3://BUCKET/PREFIX"),
}
"""Codes with a single cause, whatever their status → exit code and remedy."""
_MISMATCH = "XAmzContentSHA256Mismatch"
_TRANSIENT = {"RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody", _MISMATCH}
"""Codes about what the network or the service's load did to a request, which come with status 400."""
_CHECKSUMMED = {"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject"}
"""Operations to which botocore adds a checksum, or the wish for one in the reply."""
_OTHER_CAUSE = {"SlowDown", "TooManyRequests", "RequestTimeout", "ConditionalRequestConflict", "NoSuchUpload"}
"""Codes that no checksum is the cause of."""


@contextmanager
def s3_errors_as_storage_errors(action: str, where: str, client: Any) -> Iterator[None]:
    """Translate errors of the block, in which `client` tries to `action` the object or bucket `where` (its URI)."""
    what = f"cannot {action} {where} at {clean(client.meta.endpoint_url)}"
    try:
        yield
    except ClientError as error:
        config = client.meta.config
        checksums = "when_supported" in (config.request_checksum_calculation, config.response_checksum_validation)
        raise _of_answer(error, what, checksums) from error
    except BotoCoreError as error:
        raise of_client(error, what) from error
    except StorageError:
        raise
    except (ValueError, ResponseParserError) as error:  # a reply that is cut short, or no reply of S3
        reason = clean(str(error), REASON_LIMIT)
        raise StorageError(f"{what}: the reply cannot be read ({reason})", remedy=UNREACHABLE) from error


def code_of(error: Exception) -> str:
    """The service's code, "" if there is none; a reply without content (to HEAD) has its status there: `404`."""
    answer = getattr(error, "response", None) or {}  # a time-out has one that is None
    return str(answer.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status, 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _of_answer(error: ClientError, what: str, checksums: bool) -> StorageError:
    """What a refusal of the service means; `what` begins the message. `checksums`: botocore adds them."""
    code, status, operation = code_of(error), status_of(error), error.operation_name
    message = str(error.response.get("Error", {}).get("Message", ""))
    said = f"{what}: {clean(f'{code} ({message})', REASON_LIMIT)}"
    checksums = checksums and operation in _CHECKSUMMED and code not in _OTHER_CAUSE
    if code == "NoSuchBucket" or (status == 404 and operation == "ListObjectsV2"):
        remedy = "create the bucket, or correct the URI"
        return StorageError(f"{what}: there is no such bucket", remedy=remedy, exit_code=ExitCode.INPUT_MISSING)
    if operation == "GetObject" and status == 404 and code in ("NoSuchKey", "NotFound", "404", ""):
        return NotFound(f"{what}: there is no such object")
    if code in _CERTAIN:
        exit_code, remedy = _CERTAIN[code]
        return StorageError(said, remedy=remedy, exit_code=exit_code)
    if status in (401, 403):
        exit_code, remedy = ExitCode.CREDENTIALS, _DENIED
    elif status == 301:
        exit_code, remedy = ExitCode.CONFIGURATION, _REGION
    elif status in (400, 405, 411, 501) and (code not in _TRANSIENT or (checksums and code == _MISMATCH)):
        exit_code, remedy = (
            ExitCode.CONFIGURATION,
            "see spec.storage.addressing; to a port that speaks TLS use https://",
        )
    else:
        exit_code, remedy = ExitCode.UNAVAILABLE, "the service has a problem; try again later"
    return StorageError(said, remedy=f"{remedy}; {CHECKSUMS}" if checksums else remedy, exit_code=exit_code)


def of_client(error: BotoCoreError, what: str) -> StorageError:
    """What it means that no request could be made, or no reply came that can be used; `what` begins the message."""
    cause = error.kwargs.get("error")
    # The cause below botocore's own message, which repeats the address, where it is known.
    text = str(error) if cause is None else f"no connection ({str(cause).partition('): ')[2] or cause})"
    said = f"{what}: {clean(text, REASON_LIMIT)}"
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError(said, remedy=_NO_KEYS, exit_code=ExitCode.CREDENTIALS)
    if isinstance(error, botocore.SSLError):
        for pattern, remedy in _TLS.items():
            if re.search(pattern, str(cause)):
                return StorageError(said, remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    if isinstance(error, _MISCONFIGURED) or (type(error) is botocore.HTTPClientError and isinstance(cause, ValueError)):
        remedy = "correct spec.storage, the URI, or the AWS_ variables"
        return StorageError(said, remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    return StorageError(said, remedy=UNREACHABLE)


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise StorageError (CREDENTIALS) for an AWS_ variable with white space at an end, as `echo key | base64` leaves.

    HTTP headers and signatures made of it are refused, with messages that do not name it.
    """
    for name, value in sorted(environment.items()):
        if name.startswith("AWS_") and value != value.strip():
            end = "ends in" if value != value.rstrip() else "begins with"
            raise StorageError(
                f"{name} {end} white space",
                remedy="correct the variable, or the Secret that it comes from (spec.storage.credentials)",
                exit_code=ExitCode.CREDENTIALS,
            )
