"""What is built and installed: the wheel, the source archive, and the pins."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
NAME = PROJECT["name"]
PINS = {"constraints.txt": ("demo",), "tests/constraints.txt": ("demo", "test")}
ROLE_SCRIPT = "exporter/demo/postgres-role.sql"
SECONDS = 120.0


def build(target: str, directory: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)],
        cwd=ROOT,
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a wheel."""
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel],
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    return target


def run(installed: Path, *arguments: str) -> str:
    """Run Python where only the installed package is found."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def find_package_files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "exporter").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Texts, recorded answers, tables and the mark of typing included; tests and the rest not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert find_package_files() | {ROLE_SCRIPT} == package
    assert {"exporter/py.typed", "exporter/health/texts/database.md", "exporter/demo/answers/buildinfo.json"} <= package


def test_the_wheel_says_whose_it_is(wheel: Path) -> None:
    """Name, licence, Python and command are in its metadata, the licence's text beside them."""
    archive = zipfile.ZipFile(wheel)
    folder = f"{NAME.replace('-', '_')}-{PROJECT['version']}.dist-info"
    metadata = email.message_from_string(archive.read(f"{folder}/METADATA").decode())
    assert (NAME, "Apache-2.0", ">=3.11", "text/markdown") == (
        metadata["Name"],
        metadata["License-Expression"],
        metadata["Requires-Python"],
        metadata["Description-Content-Type"],
    )
    assert (ROOT / "LICENSE").read_bytes() == archive.read(f"{folder}/licenses/LICENSE")
    assert f"{NAME} = exporter.cli:main" in archive.read(f"{folder}/entry_points.txt").decode()


def test_the_installed_package_runs(installed: Path) -> None:
    """Version, texts and scenarios come from the installed files alone."""
    assert str(installed) in run(installed, "-c", "import exporter; print(exporter.__file__)")
    python = ".".join(map(str, sys.version_info[:3]))
    assert f"{NAME} {PROJECT['version']} (Python {python})\n" == run(installed, "-m", "exporter", "--version")
    assert run(installed, "-m", "exporter", "explain", "EDB02").startswith("EDB02 - ")
    assert "healthy" in run(installed, "-m", "exporter", "demo", "--list-scenarios")


def test_the_installed_demo_makes_its_role_as_operators_do(installed: Path) -> None:
    """The script of deploy/ travels with the package."""
    assert (ROOT / "deploy" / "postgres-role.sql").read_bytes() == (installed / ROLE_SCRIPT).read_bytes()


def test_the_command_of_this_environment_is_this_version() -> None:
    """What the README's commands installed is this tree."""
    assert PROJECT["version"] == version(NAME)
    command = Path(sys.executable).with_name(NAME)
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.startswith(f"{NAME} {PROJECT['version']} ")


def test_the_source_archive_is_complete_and_clean(tmp_path: Path) -> None:
    """It holds what builds, tests and runs the project, and no cache, environment or lock file."""
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = {name.partition("/")[0] for name in names}
    kept = {".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "alerts", "constraints.txt"}
    assert kept | {"deploy", "exporter", "grafana", "pyproject.toml", "tests"} == top
    assert find_package_files() <= names
    assert [] == [name for name in names if re.search(r"__pycache__|\.pyc$|\.venv|uv\.lock", name)]


def read_pins(name: str) -> dict[str, Requirement]:
    text = (ROOT / name).read_text().replace("\\\n", "")
    requirements = [Requirement(line.partition(" --hash=")[0]) for line in text.splitlines() if line]
    return {normalize(requirement.name): requirement for requirement in requirements}


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(extras: tuple[str, ...]) -> Iterator[Requirement]:
    lines = [*PROJECT["dependencies"], *PYPROJECT["dependency-groups"]["build"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    yield from map(Requirement, lines)


@pytest.mark.parametrize("name", PINS)
def test_every_pin_is_exact_and_hashed_and_has_no_address(name: str) -> None:
    """What is installed is decided here, wherever it is fetched from."""
    text = (ROOT / name).read_text()
    assert not re.search(r"https?:|--index-url|--find-links|--trusted-host", text)
    for line in text.replace("\\\n", "").splitlines():
        assert re.match(r"^[a-z0-9-]+==[0-9][0-9A-Za-z.]*( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+$", line), line[:80]


@pytest.mark.parametrize("name", PINS)
def test_the_pins_fulfil_the_project(name: str) -> None:
    """Every dependency is pinned, within the range that pyproject.toml allows."""
    pins = read_pins(name)
    for requirement in wanted(PINS[name]):
        (specifier,) = pins[normalize(requirement.name)].specifier
        assert requirement.specifier.contains(specifier.version), requirement.name


def test_the_tests_use_the_versions_that_run() -> None:
    """What both files pin, they pin alike."""
    runtime, tests = (read_pins(name) for name in PINS)
    assert runtime == {name: tests.get(name) for name in runtime}


def test_the_build_requirement_is_the_pinned_one() -> None:
    """The project is built without isolation, so what builds it has to be pinned with the rest."""
    assert PYPROJECT["build-system"]["requires"] == PYPROJECT["dependency-groups"]["build"]
