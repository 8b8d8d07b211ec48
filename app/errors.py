"""The tree of errors that reach people through HTTP and the command line.

The class docstring is the text for people when no detail is given; only ``code`` is a contract.
"""


class SkydeckError(Exception):
    """Something went wrong in Skydeck."""


class AppError(SkydeckError):
    """The request could not be served."""

    code = "error"
    status = 500

    def __init__(self, detail: str | None = None, *, code: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        if code is not None:
            self.code = code
        super().__init__(self.detail)


class Unauthenticated(AppError):
    """Send a valid token (Authorization: Bearer TOKEN); `skydeck token create NAME` makes one."""

    code = "unauthenticated"
    status = 401


class Forbidden(AppError):
    """This token may not do that."""

    code = "forbidden"
    status = 403


class NotFound(AppError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class Conflict(AppError):
    """This contradicts what was accepted before."""

    code = "conflict"
    status = 409


class Superseded(AppError):
    """This attempt or generation is over: stop."""

    code = "superseded"
    status = 410


class Invalid(AppError):
    """The request is not valid."""

    code = "invalid"
    status = 422


class Unavailable(AppError):
    """Not now: try again later."""

    code = "unavailable"
    status = 503

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, retry_after_s: int = 2
    ) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s
