"""What pyproject.toml lists is what the folders hold; a package it forgets misses the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKS = {"quant": ROOT / "quant", "converters": ROOT / "converters"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """The top-level folder that holds `package`; linked packages live beside `edgellama`."""
    head, *rest = package.split(".")[1:] or [""]
    return (LINKS.get(head, ROOT / "edgellama" / head)).joinpath(*rest)


def packages_on_disk() -> set[str]:
    """Every folder below the three roots that holds modules, as a dotted package name."""
    roots = {"edgellama": ROOT / "edgellama"}
    roots |= {f"edgellama.{name}": folder for name, folder in LINKS.items()}
    found = set()
    for package, root in roots.items():
        for path in root.rglob("*.py"):  # rglob does not enter linked folders
            inside = path.parent.relative_to(root).parts
            if package == "edgellama" and inside and inside[0] in LINKS:
                continue
            found.add(".".join([package, *inside]))
    return found


def test_every_package_is_listed_and_every_listed_package_exists() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_on_disk()


def test_every_listed_package_has_an_init_file() -> None:
    for package in SETUPTOOLS["packages"]:
        assert (folder_of(package) / "__init__.py").is_file(), package


def test_the_links_and_the_package_map_name_the_same_folders() -> None:
    assert SETUPTOOLS["package-dir"] == {f"edgellama.{name}": name for name in LINKS}
    for name, folder in LINKS.items():
        link = ROOT / "edgellama" / name
        # a checkout without link support holds a small text file with the target instead
        target = link if link.is_dir() else link.parent / link.read_text().strip()
        assert target.resolve() == folder.resolve()


def test_every_data_file_in_a_package_is_covered_by_package_data() -> None:
    for package in SETUPTOOLS["packages"]:
        patterns = SETUPTOOLS["package-data"].get(package, [])
        for path in folder_of(package).iterdir():
            if (
                path.is_dir()
                or path.suffix in (".py", ".pyc")
                or path.parent.joinpath(path.name, "__init__.py").exists()
            ):
                continue
            assert any(path.match(pattern) for pattern in patterns), path


def test_the_version_is_written_once_in_each_place() -> None:
    text = (ROOT / "edgellama" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{PYPROJECT["project"]["version"]}"' in text


def test_ruff_skips_the_links_so_that_each_file_is_checked_once() -> None:
    skipped = set(PYPROJECT["tool"]["ruff"]["extend-exclude"])
    assert {f"edgellama/{name}" for name in LINKS} <= skipped
