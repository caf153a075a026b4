"""The house has floors: a module imports from its own floor or from below, never from above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down. A part is the first name below `edgellama`; a file too long for one is several,
# `tokenizer_bpe` beside `tokenizer`, on one floor.
FLOORS = (
    {"cli", "__main__"},
    {"server"},
    {"llama"},
    {"engine", "evaluate", "calibration", "compensation", "sensitivity", "choice"},
    {"generate", "requests", "slots", "schedule", "speculation", "embedding", "text_chunks"},
    {"answer", "stream", "stop_strings", "tools", "chat", "grammar", "sampling", "saved_chats"},
    {"tokenizer", "backends", "models", "prefix_store"},
    {"step"},
    {"ops", "attention", "context", "draw", "team", "kv_cache", "weights"},
    {"config", "gguf", "random_llama", "threads", "folders"},
    {"errors"},
    {"quant"},
)
FLOOR_OF = {name: number for number, floor in enumerate(reversed(FLOORS)) for name in floor}
CONVERTERS_MAY_IMPORT = {"converters", "gguf", "errors", "quant", "__version__"}
CONVERTERS_MAY_BE_IMPORTED_BY = {
    "cli/calibrating.py",
    "cli/convert.py",
    "cli/inspect.py",
    "cli/making.py",
    "cli/quantize.py",
}


def sources() -> list[Path]:
    """Every module of the package, once: rglob does not enter the linked folders."""
    folders = (ROOT / "edgellama", ROOT / "quant", ROOT / "converters")
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def parts(path: Path) -> tuple[str, ...]:
    """(house part, ..., module), e.g. ("cli", "chat") or ("quant", "simd", "__init__")."""
    relative = path.relative_to(ROOT).with_suffix("").parts
    return relative[1:] if relative[0] == "edgellama" else relative


def part_of(name: str) -> str:
    """The part that a dotted name below `edgellama` belongs to: "gguf_writer.x" to "gguf"."""
    first = name.split(".")[0]
    owner = first.split("_")[0]
    return owner if first not in FLOOR_OF and owner in FLOOR_OF else first


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names below `edgellama` that `path` imports; "" stands for the package itself."""
    package = ("edgellama", *parts(path)[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import step` names modules; `from .step import x` names what is in one
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "edgellama" or name.startswith("edgellama."):
                yield name.removeprefix("edgellama").removeprefix(".")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_down(path: Path) -> None:
    here = part_of(parts(path)[0])
    for name in imports(path):
        there = part_of(name)
        if here == "converters":
            assert there in CONVERTERS_MAY_IMPORT | {"__version__"}, (
                f"{path.name} imports edgellama.{name}"
            )
        elif there in FLOOR_OF and here in FLOOR_OF:
            assert FLOOR_OF[there] <= FLOOR_OF[here], f"{path.name} imports edgellama.{name}"
        elif here in FLOOR_OF and there not in ("converters", "__version__"):
            # a name of the package itself, such as Llama: it may live anywhere
            assert here in FLOORS[0], f"{path.name} imports {there} from the top of the package"


def test_every_module_stands_on_a_floor() -> None:
    known = FLOOR_OF.keys() | {"converters", "__init__"}
    assert {part_of(parts(path)[0]) for path in sources()} <= known


def test_only_three_commands_import_the_converters_and_only_inside_a_function() -> None:
    for path in sources():
        if parts(path)[0] == "converters":
            continue
        importing = [name for name in imports(path) if name.split(".")[0] == "converters"]
        allowed = "/".join(parts(path)) + ".py" in CONVERTERS_MAY_BE_IMPORTED_BY
        assert not importing or allowed, f"{path} imports the converters"
        at_top = imports(path, top_level_only=True)
        assert not any(name.split(".")[0] == "converters" for name in at_top), path


def test_quant_imports_nothing_of_the_project_but_itself_and_only_by_relative_imports() -> None:
    for path in sorted((ROOT / "quant").rglob("*.py")):
        assert all(name.split(".")[0] == "quant" for name in imports(path)), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("edgellama"), path
            elif isinstance(node, ast.Import):
                assert not any(a.name.startswith("edgellama") for a in node.names), path


def test_no_file_names_a_linked_folder_as_a_package_of_its_own() -> None:
    """`import quant` would load a second copy of every module beside `edgellama.quant`."""
    for folder in ("edgellama", "quant", "converters", "tests", "examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules = [node.module or ""]
                for module in modules:
                    assert module.split(".")[0] not in ("quant", "converters"), path
