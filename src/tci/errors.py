"""Every expected failure of the service: its HTTP status, its code and its sentence.

    ServiceError                     500 internal_error
    ├── InvalidRequest               400 invalid_request
    │   └── InvalidFile              400 invalid_file
    ├── InvalidApiKey                401 invalid_api_key
    ├── OriginNotAllowed             403 origin_not_allowed
    ├── AdminRequired                403 admin_required
    ├── SessionNotFound              404 session_not_found
    ├── AccountNotFound              404 account_not_found
    ├── FileNotFound                 404 file_not_found
    ├── BodyTooLarge                 413 body_too_large
    ├── DiskFull                     413 disk_full
    ├── RangeNotSatisfiable          416 range_not_satisfiable
    ├── SessionLimitReached          429 quota_exceeded
    ├── QuotaReached                 429 quota_exceeded, or rate_limited for executions a minute
    ├── TooManyWaiting               429 rate_limited
    ├── TooManyTransfers             429 rate_limited
    ├── NoCapacity                   503 no_capacity
    ├── Unavailable                  503 unavailable
    ├── Stopping                     503 unavailable
    ├── LoopStopped                  503 loop_stopped
    └── SandboxFailed                500 sandbox_failed
        ├── EngineAway               503 unavailable
        ├── LaunchTimeout            504 sandbox_timeout
        └── KernelFailed             502 kernel_failed
    SetupError                       start-up only: what is missing and how to get it

A failure means that we could not run the code. Code that raised is not a failure: it is an
`error` output of an execution that went well.
"""


class ServiceError(Exception):
    """An expected failure that the caller is told about."""

    status = 500
    code = "internal_error"
    type = "server_error"
    param: str | None = None
    retry_after: int | None = None
    """Seconds after which the same request may work; None where repeating it changes nothing."""


class InvalidRequest(ServiceError):
    """The request is malformed; nothing was run."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidFile(InvalidRequest):
    """A file of the request can't be written; nothing was run."""

    code = "invalid_file"


class InvalidApiKey(ServiceError):
    """The request carries no key, an unknown one or a revoked one: one answer for all three."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def __init__(self) -> None:
        super().__init__("Invalid API key. Send a valid one as 'Authorization: Bearer <key>'.")


class OriginNotAllowed(ServiceError):
    """The request comes from a page in a browser; nothing was run."""

    status = 403
    code = "origin_not_allowed"
    type = "permission_error"

    def __init__(self) -> None:
        super().__init__("Requests from this origin are not allowed. The operator may list it in TCI_MCP_ORIGINS.")


class AdminRequired(ServiceError):
    """The key is valid, and not one that may look at the whole service."""

    status = 403
    code = "admin_required"
    type = "permission_error"

    def __init__(self) -> None:
        super().__init__("This needs a key that sees every account: 'tci keys create --admin' makes one.")


class SessionNotFound(ServiceError):
    """The session never existed, has ended, or belongs to another account: one answer for all.

    Only its owner is told why it ended, in the message.
    """

    status = 404
    code = "session_not_found"
    type = "invalid_request_error"
    param = "session_id"

    def __init__(self, session_id: str, *, reason: str | None = None) -> None:
        why = f" It {reason}." if reason else ""
        super().__init__(f"Session {session_id[:40]} was not found.{why} Leave session_id out to open a new one.")


class AccountNotFound(ServiceError):
    """There is no such account, or the key may not see it: one answer for both."""

    status = 404
    code = "account_not_found"
    type = "invalid_request_error"
    param = "account"

    def __init__(self, account: str) -> None:
        super().__init__(f"Account {account[:40]} was not found.")


class BodyTooLarge(ServiceError):
    """The body is larger than the operator allows."""

    status = 413
    code = "body_too_large"
    type = "invalid_request_error"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than the limit of {limit} bytes.")


class FileNotFound(ServiceError):
    """The session has no file of this name."""

    status = 404
    code = "file_not_found"
    type = "invalid_request_error"
    param = "path"

    def __init__(self, name: str) -> None:
        super().__init__(f"File {name[:200]} was not found in the session.")


class DiskFull(ServiceError):
    """The session has no room for a file; nothing of it was kept."""

    status = 413
    code = "disk_full"
    type = "invalid_request_error"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file does not fit on the session's disk of {limit} bytes; nothing of it was kept.")


class RangeNotSatisfiable(ServiceError):
    """The range of bytes that was asked for begins behind the file's end."""

    status = 416
    code = "range_not_satisfiable"
    type = "invalid_request_error"
    param = "range"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes, none of them in the range that was asked for.")
        self.size = size


class SessionLimitReached(ServiceError):
    """The account has as many live sessions as it may have."""

    status = 429
    code = "quota_exceeded"
    type = "rate_limit_error"
    retry_after = 30

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The account already has {limit} live sessions, its limit. End one with DELETE, or wait until one expires."
        )


class QuotaReached(ServiceError):
    """The key has used up what it may."""

    status = 429
    code = "quota_exceeded"
    type = "rate_limit_error"

    def __init__(self, quota: str, limit: object, *, retry_after: int, code: str = "quota_exceeded") -> None:
        super().__init__(f"This API key has used up its quota of {quota}: {limit}. Ask the operator for more, or wait.")
        self.retry_after = retry_after
        self.code = code


class TooManyWaiting(ServiceError):
    """As many calls wait for their turn in the session as may."""

    status = 429
    code = "rate_limited"
    type = "rate_limit_error"
    retry_after = 5

    def __init__(self, limit: int) -> None:
        super().__init__(f"Already {limit} calls wait for their turn in this session. Try again later.")


class TooManyTransfers(ServiceError):
    """As many files of the session are on their way as may."""

    status = 429
    code = "rate_limited"
    type = "rate_limit_error"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("Too many files of this session are on their way already. Try again later.")


class NoCapacity(ServiceError):
    """This machine runs as many sandboxes as it may."""

    status = 503
    code = "no_capacity"
    retry_after = 10

    def __init__(self, limit: int) -> None:
        super().__init__(f"No capacity: all {limit} sandboxes of this server are in use. Try again soon.")


class Unavailable(ServiceError):
    """A part that the service stands on does not answer."""

    status = 503
    code = "unavailable"
    retry_after = 5

    def __init__(self, part: str) -> None:
        super().__init__(f"{part} does not answer. Nothing was run; try again soon.")


class Stopping(ServiceError):
    """The service stops, and could not finish the request before."""

    status = 503
    code = "unavailable"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The service is stopping. Send the request again in a moment.")


class LoopStopped(ServiceError):
    """Something that the service does in the background has ended, and only a restart begins it again."""

    status = 503
    code = "loop_stopped"
    retry_after = 5

    def __init__(self, loop: str) -> None:
        super().__init__(f"Not ready: a background loop has ended ({loop}). Restart this process; its log says why.")


class SandboxFailed(ServiceError):
    """A sandbox could not be launched, or failed in a way that is not the caller's doing."""

    code = "sandbox_failed"


class EngineAway(SandboxFailed):
    """The Docker engine does not answer, say since it restarts; the same request will work once it is back."""

    status = 503
    code = "unavailable"
    retry_after = 5


class LaunchTimeout(SandboxFailed):
    """A sandbox was not ready in time; it has been removed."""

    status = 504
    code = "sandbox_timeout"
    retry_after = 10

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The sandbox was not ready within {seconds:g} seconds and was removed.")


class KernelFailed(SandboxFailed):
    """The kernel could not be talked to while its sandbox runs."""

    status = 502
    code = "kernel_failed"


class SetupError(Exception):
    """The service can't start; the message says what is missing and how to get it."""
