"""Text files that a command is told to read."""

from pathlib import Path

from edgellama.errors import InvalidRequest


def read_text_file(path: str) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    return decode(Path(path).read_bytes(), path)


def decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{source} is not UTF-8 text: byte {error.start} is wrong") from None
