"""What is installed: the requirements, their exact versions, the wheel and the source archive."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from imports import FILES, PACKAGE, imports_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from underpaint import __version__, assets

ROOT = Path(__file__).resolve().parents[1]
#: What a user installs; `docs` and `dev` are for those who have the repository.
EXTRAS = ("", "web", "text", "scale", "features")
#: Imported as a part of another: gradio is built on it.
PARTS = {"starlette": "gradio"}
#: Module -> the distributions that bring it.
HOMES = packages_distributions()
#: Bytes of a wheel, with all models in the box.
LARGEST = 40e6


def required(*extras: str) -> dict[str, Requirement]:
    """Distribution -> requirement, of the package with some of its extras."""
    found = [Requirement(line) for line in requires("underpaint") or []]
    return {
        canonicalize_name(each.name): each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    }


def distributions(modules: Iterable[str]) -> set[str]:
    """What has to be installed for modules to be there."""
    return {canonicalize_name(name) for module in modules for name in HOMES.get(PARTS.get(module, module), [])}


def test_every_import_is_required_and_every_requirement_used() -> None:
    imported = {name.partition(".")[0] for module in FILES for name in imports_of(FILES[module])}
    imported -= {"underpaint", "__future__"} | sys.stdlib_module_names
    code = "".join(file.read_text(encoding="utf-8") for file in FILES.values())
    asked = set(re.findall(r'\w\("(\w+)"\)', code)) | imported_where_used()  # find_spec("name"), library("name", ...)
    offered = required(*EXTRAS).keys()
    assert [module for module in sorted(imported) if not distributions([module]) & offered] == []
    assert offered - distributions(imported | asked) == set()


def test_tests_have_every_extra() -> None:
    assert required("dev").keys() >= required(*EXTRAS, "docs").keys()
    assert required("all").keys() == required(*EXTRAS).keys()


def test_torchvision_comes_with_the_fid_alone() -> None:
    """It must fit the build of torch, so that nobody gets it unasked."""
    assert required("fid").keys() - required("").keys() == {"torch-fidelity"}
    assert "torch-fidelity" not in required("dev", "all", "docs")
    assert "torch_fidelity" in imported_where_used()


def imported_where_used() -> set[str]:
    """What `library` is asked for."""
    return {
        name for file in FILES.values() for name in re.findall(r'library\("(\w+)', file.read_text(encoding="utf-8"))
    }


def test_every_requirement_has_an_exact_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    for name, requirement in required("dev").items():
        for python in ("3.10.0", "3.11.9", "3.12.0", "3.13.0"):
            there = {"python_full_version": python, "python_version": python[:4]}
            pinned = [pin for pin in pins if canonicalize_name(pin.name) == name]
            found = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate(there)]
            assert len(found) == 1, f"{name} on Python {python}: {found}"
            ((exactly, version),) = [(each.operator, each.version) for each in found[0].specifier]
            assert exactly == "=="
            assert requirement.specifier.contains(version), f"{found[0]} is not {requirement}"


def test_make_check_is_what_continuous_integration_runs() -> None:
    (here,) = re.findall(r"^check: ([a-z -]+) ##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (there,) = re.findall(r'^make --keep-going VENV="\$venv" ([a-z -]+)$', (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert set(here.split()) == set(there.split())


def build(source: Path, target: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target)]
    built = subprocess.run([*command, *kinds], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of this tree."""
    pytest.importorskip("hatchling", reason="needs the extra dev")
    target = tmp_path_factory.mktemp("dist")
    build(ROOT, target)
    return target


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_wheel_holds_the_whole_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        about = f"underpaint-{__version__}.dist-info/"
        held = {name for name in wheel.namelist() if not name.startswith(about)}
        here = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert held == {f"underpaint/{path.relative_to(PACKAGE).as_posix()}" for path in here}
        for name in ("py.typed", "figures/report.html.j2", "web/page.css", "assets/fashion-mnist/model_index.json"):
            assert f"underpaint/{name}" in held
        assert only(built, "*.whl").stat().st_size < LARGEST
        assert "underpaint = underpaint.cli:main" in wheel.read(f"{about}entry_points.txt").decode()


def test_the_source_archive_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    assert {name.partition("/")[0] for name in names} == {
        ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO",
        "README.md", "VISION.md", "benchmarks", "constraints.txt", "docs", "examples", "mkdocs.yml", "pyproject.toml",
        "src", "tests", "training",
    }  # fmt: skip
    build(only(tmp_path, "underpaint-*"), tmp_path / "dist", "--target", "wheel")
    assert only(tmp_path / "dist", "*.whl").read_bytes() == only(built, "*.whl").read_bytes()


@pytest.mark.slow
def test_the_wheel_samples_from_its_own_box(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        wheel.extractall(tmp_path / "site")
    empty = tmp_path / "empty"
    empty.mkdir()
    offline = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HOME": str(empty), "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "underpaint.cli", *words]
        return subprocess.run(command, cwd=empty, env=offline, capture_output=True, text=True, check=True).stdout

    place = "import underpaint; print(underpaint.__file__)"
    where = subprocess.run([sys.executable, "-c", place], cwd=empty, env=offline, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)
    assert [entry["name"] for entry in json.loads(run("models", "--json"))] == assets.names()
    sample = json.loads(run("sample", "--seeds", "0-1", "--steps", "3", "--json"))
    assert sample["nfe"] == 3
    assert [path.name for path in empty.glob("*.png")] == ["samples.png"]
