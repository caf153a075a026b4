"""GET / and the files of the web page, which lie in the folder page/."""

from importlib import resources
from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from .failures import ApiError

_PAGE = resources.files(f"{__package__}.page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page asks nobody but this server, and no other page may frame it.
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def page_file(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    kind = _TYPES.get(PurePosixPath(name).suffix)
    if kind is None or name not in {file.name for file in _PAGE.iterdir()}:
        raise ApiError(404, f"there is nothing at /{name[:100]}", code="not_found")
    return Response(
        (_PAGE / name).read_bytes(),
        media_type=kind,
        headers={
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        },
    )
