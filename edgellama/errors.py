"""Every error that edgellama raises on purpose.

    EdgellamaError
    ├── ModelFormatError    a GGUF file, or what it says of its model, cannot be right
    ├── CheckpointRefused   an official checkpoint is damaged, unknown, or wants to run code
    ├── ContextFull         more tokens than the context holds
    ├── ResourceError       memory, disk or address space is not there
    │   ├── Overloaded      more requests wait already than may wait
    │   └── ModelChanged    the model's file was written to after it was opened
    └── InvalidRequest      a caller's argument: unknown option, id out of range, empty prompt

A message says what was found, what was expected and what to do. The library raises; the command
line prints the message in one line and exits 1.
"""


class EdgellamaError(Exception):
    """Base of all of them: `except EdgellamaError` catches what is edgellama's to say."""


class ModelFormatError(EdgellamaError):
    """A GGUF file is truncated, inconsistent, hostile or of an unknown kind."""


class CheckpointRefused(EdgellamaError):
    """A checkpoint folder or file cannot be converted, or may not be trusted."""


class ContextFull(EdgellamaError):
    """The tokens asked for do not fit into the context: `n_prompt` of them, where `n_ctx` fit."""

    def __init__(self, message: str, n_prompt: int = 0, n_ctx: int = 0) -> None:
        super().__init__(message)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class ResourceError(EdgellamaError):
    """The machine lacks memory, disk space or a permission."""


class Overloaded(ResourceError):
    """So many requests wait that another is refused; it may come again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelChanged(ResourceError):
    """The file of an open model was written to or cut off; it must be opened again."""


class InvalidRequest(EdgellamaError, ValueError):
    """An argument that no model could serve."""
