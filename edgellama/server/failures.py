"""Everything that goes wrong, as OpenAI's clients expect to read it.

{"error": {"message": words, "type": family, "param": field or null, "code": short name}}
"""

import logging
from collections.abc import Mapping
from typing import Any

from edgellama.errors import (
    ContextFull,
    EdgellamaError,
    InvalidRequest,
    ModelChanged,
    Overloaded,
    ResourceError,
)

log = logging.getLogger("edgellama.server")


class ApiError(EdgellamaError):
    """An answer that is an error: its status, what its JSON says, and headers of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.details = details

    def as_plain(self) -> dict[str, Any]:
        """What `from_plain` makes the same of, in another process."""
        return {
            "status": self.status,
            "message": str(self),
            "code": self.code,
            "param": self.param,
            "headers": self.headers,
            **self.details,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ApiError":
        return cls(**plain)

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
                **self.details,
            }
        }


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class FieldError(InvalidRequest):
    """A field of a request's body that cannot be used as it is."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def tell(error: Exception, path: str) -> ApiError:
    """What a client is told; the log names what a model or we did wrong.

    path: of the request, as the log may show it.
    """
    told = as_api_error(error)
    if told.status == 500 and told is not error:
        debug = log.isEnabledFor(logging.DEBUG)
        log.error("%s in %s", _place_of(error), path, exc_info=error if debug else None)
    return told


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error; of an unexpected one, only that there was one."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    if isinstance(error, ContextFull):
        return ApiError(
            400,
            message,
            code="context_length_exceeded",
            n_prompt_tokens=error.n_prompt,
            n_ctx=error.n_ctx,
        )
    if isinstance(error, FieldError):
        return ApiError(400, message, code=error.code, param=error.param)
    if isinstance(error, InvalidRequest):
        return ApiError(400, message, code="invalid_value", param=_named_field(message))
    if isinstance(error, Overloaded):
        return ApiError(503, message, code="overloaded", headers=retry_after(error.retry_after))
    if isinstance(error, ModelChanged):
        return ApiError(503, message, code="model_changed", headers=retry_after(1))
    if isinstance(error, ResourceError | MemoryError):
        words = message or "there is not enough memory"
        return ApiError(503, words, code="no_resources", headers=retry_after(5))
    if isinstance(error, TimeoutError):
        return ApiError(504, "the answer took longer than this server allows", code="timeout")
    if isinstance(error, EdgellamaError):
        return ApiError(500, message, code="model_failed")
    return ApiError(500, "an unexpected error; the server's log names it", code="unexpected")


def _place_of(error: Exception) -> str:
    """Kind and place of an error, without its words, which may quote a prompt."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}"


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds, one at least."""
    return {"Retry-After": str(max(1, round(seconds)))}


def _named_field(message: str) -> str | None:
    """The library's messages begin with the name of the argument where there is one."""
    first = message.split(" ", 1)[0].rstrip(":")
    if first in _PLURALS:
        return _PLURALS[first]
    return first if "_" in first or first in _ONE_WORD_FIELDS else None


_PLURALS = {"message": "messages", "tool": "tools", "conversation": "messages"}
_ONE_WORD_FIELDS = frozenset(
    ("temperature", "seed", "stop", "samplers", "mirostat", "messages", "tools", "grammar", "regex")
)
