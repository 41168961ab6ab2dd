"""Turns what botocore raises into a StorageError: the object, the endpoint, a remedy, and whether to try again.

Only what may pass by itself is an outage (UNAVAILABLE). What a person has to change is not: keys, addresses,
certificates, the scheme of the endpoint, and checksums that the service does not support.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_trainer.storage.base import NotFound, StorageError

REASON_LIMIT = 300
"""Characters of the service's own message that are repeated."""
HANDSHAKE_SECONDS = 3
"""How long a port is given to answer a TLS handshake, once a request to it over plain HTTP has failed."""

UNREACHABLE = "see whether the endpoint answers from here; spec.storage.endpoint or AWS_ENDPOINT_URL names it"
CHECKSUMS = "if this service does not support the checksums that boto3 adds, set spec.storage.checksums: WhenRequired"
_NO_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; on a cluster, name a Secret that holds them in"
    " spec.storage.credentials"
)
_REGION = "set spec.storage.region, or AWS_REGION, to the bucket's region"
_DENIED = "check the access key, and that it may read, write, list and delete below this prefix"
_TLS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted",
        "set AWS_CA_BUNDLE to a file with the certificates of the authority that signed it, or use the host name that"
        " it is for",
    ),
    "WRONG_VERSION_NUMBER|RECORD_LAYER|PACKET_LENGTH": (
        "the endpoint begins with https://, and this port does not speak TLS",
        "write http://, or the port of HTTPS",
    ),
    "Errno 2|X509": ("AWS_CA_BUNDLE cannot be read", "let it name a file of certificates in PEM"),
}
"""What OpenSSL reports of a failed handshake → (finding, remedy); whatever else it reports may be an outage."""

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
_TRANSIENT = {"RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
"""Codes about what the network or the service's load did to a request, which come with status 400."""
_CHECKSUMMED = {"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject"}
"""Operations to which botocore adds a checksum, or the wish for one in the reply."""
_OTHER_CAUSE = {"SlowDown", "TooManyRequests", "RequestTimeout", "ConditionalRequestConflict", "NoSuchUpload"}
"""Codes that no checksum is the cause of."""


@contextmanager
def translated(action: str, where: str, client: Any) -> Iterator[None]:
    """Translate errors of the block, in which `client` tries to `action` the object or bucket `where` (its URI)."""
    endpoint = client.meta.endpoint_url
    what = f"cannot {action} {where} at {clean(endpoint)}"
    try:
        yield
    except ClientError as error:
        if status_of(error) == 400 and code_of(error) in ("", "400") and _speaks_tls(endpoint):
            raise _wrong_scheme(what) from error  # most servers of HTTPS answer plain HTTP with 400
        raise of_answer(error, what, checksums=adds_checksums(client)) from error
    except BotoCoreError as error:
        raise of_client(error, what, endpoint) from error
    except StorageError:
        raise
    except (ValueError, ResponseParserError) as error:  # a reply that is cut short, or no reply of S3
        reason = clean(str(error), REASON_LIMIT)
        raise StorageError(f"{what}: the reply cannot be read ({reason})", remedy=UNREACHABLE) from error


def adds_checksums(client: Any) -> bool:
    """Whether botocore adds checksums where a service could do without them."""
    config = client.meta.config
    return "when_supported" in (config.request_checksum_calculation, config.response_checksum_validation)


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


def of_answer(error: ClientError, what: str, *, checksums: bool) -> StorageError:
    """What a refusal of the service means; `what` begins the message, `checksums` is `adds_checksums`."""
    code, status = code_of(error), status_of(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    said = f"{what}: {clean(f'{code} ({message})', REASON_LIMIT)}"
    checksums = checksums and error.operation_name in _CHECKSUMMED and code not in _OTHER_CAUSE
    if code == "NoSuchBucket" or (status == 404 and error.operation_name == "ListObjectsV2"):
        remedy = "create the bucket, or correct the URI"
        return StorageError(f"{what}: there is no such bucket", remedy=remedy, exit_code=ExitCode.INPUT_MISSING)
    if is_missing(error):
        return NotFound(f"{what}: there is no such object")
    if code in _CERTAIN:
        exit_code, remedy = _CERTAIN[code]
        return StorageError(said, remedy=remedy, exit_code=exit_code)
    if status == 301:
        return StorageError(said, remedy=_REGION, exit_code=ExitCode.CONFIGURATION)
    transient = code in _TRANSIENT and not (checksums and code == "XAmzContentSHA256Mismatch")
    if status in (401, 403):
        exit_code, remedy = ExitCode.CREDENTIALS, _DENIED
    elif status in (400, 405, 411, 501) and not transient:
        exit_code, remedy = ExitCode.CONFIGURATION, "see spec.storage.addressing for services without all of S3"
    else:
        exit_code, remedy = ExitCode.UNAVAILABLE, "the service has a problem; try again later"
    return StorageError(said, remedy=f"{remedy}; {CHECKSUMS}" if checksums else remedy, exit_code=exit_code)


def of_client(error: BotoCoreError, what: str, endpoint: str = "") -> StorageError:
    """What it means that no request could be made, or no reply came that can be used; `what` begins the message."""
    cause = error.kwargs.get("error")
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError(f"{what}: {_reason(error)}", remedy=_NO_KEYS, exit_code=ExitCode.CREDENTIALS)
    if isinstance(error, botocore.SSLError):
        said = clean(str(cause), REASON_LIMIT)
        for pattern, (finding, remedy) in _TLS.items():
            if re.search(pattern, said):
                return StorageError(f"{what}: {finding} ({said})", remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    if isinstance(error, _MISCONFIGURED) or (type(error) is botocore.HTTPClientError and isinstance(cause, ValueError)):
        remedy = "correct spec.storage, the URI, or the AWS_ variables"
        return StorageError(f"{what}: {_reason(error)}", remedy=remedy, exit_code=ExitCode.CONFIGURATION)
    if isinstance(error, botocore.ConnectionClosedError) and _speaks_tls(endpoint):
        return _wrong_scheme(what)
    return StorageError(f"{what}: {_reason(error)}", remedy=UNREACHABLE)


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


def _wrong_scheme(what: str) -> StorageError:
    message = f"{what}: the endpoint begins with http://, and this port speaks TLS"
    return StorageError(message, remedy="write https://", exit_code=ExitCode.CONFIGURATION)


def _speaks_tls(endpoint: str) -> bool:
    """Whether the port of an http:// endpoint answers a TLS handshake, whatever its certificate."""
    address = urlsplit(endpoint)
    if address.scheme != "http":
        return False
    try:
        ssl.get_server_certificate((address.hostname or "", address.port or 80), timeout=HANDSHAKE_SECONDS)
    except (OSError, ValueError):
        return False
    return True


def _reason(error: BotoCoreError) -> str:
    """The cause below botocore's own message, which repeats the address, where it is known."""
    cause = error.kwargs.get("error")
    text = str(error) if cause is None else f"no connection ({str(cause).partition('): ')[2] or cause})"
    return clean(text, REASON_LIMIT)
