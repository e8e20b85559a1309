"""The distribution: sdist and wheel run from an empty folder, locks agree, and a clash of names is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bindings
from bindings import distribution

if TYPE_CHECKING:
    from tests.store.databases import Server

ROOT = Path(__file__).parents[1]
OTHER = "bindings-9.9.dist-info"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    ignored = ("BINDINGS_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def output(*command: str | Path, folder: Path) -> str:
    result = run(*command, folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    output(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new virtual environment with the wheel, and with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    output(python, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", wheel, folder=folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def site(environment: Path) -> Path:
    (package,) = environment.glob("lib/*/site-packages/bindings")
    return package.parent


def test_name_and_version_are_the_same_everywhere(built: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == distribution.NAME
    name = f"{distribution.NAME.replace('-', '_')}-{bindings.__version__}"
    assert {path.name for path in built.iterdir()} == {f"{name}.tar.gz", f"{name}-py3-none-any.whl"}


def test_sdist_has_what_the_readme_and_the_tests_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"Makefile", "README.md", "requirements/dev.txt", "requirements/production.txt"} <= names
    assert {"bindings/py.typed", "migrations/env.py", "tests/test_distribution.py"} <= names


@pytest.mark.processes
def test_installed_wheel_runs_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "bindings"
    assert output(command, "--version", folder=tmp_path) == f"bindings {bindings.__version__}\n"
    assert output(command, "db", "upgrade", folder=tmp_path).startswith("schema at ")
    output(command, "db", "check", folder=tmp_path)
    assert output(command, "keys", "create", "--name", "ops", "--role", "admin", folder=tmp_path)
    show = "import bindings; print(bindings.__version__, bindings.__file__, bindings.BindingService.__name__)"
    version, file, name = output(environment / "bin" / "python", "-c", show, folder=tmp_path).split()
    assert (version, name) == (bindings.__version__, "BindingService")
    assert Path(file).is_relative_to(environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project that has the tests of the how-to page."""
    page = (ROOT / "docs" / "how-to" / "test-your-application.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page.split("## Without pytest")[0], re.MULTILINE | re.DOTALL)
    *tests, settings = blocks
    (tmp_path / "test_orders.py").write_text("\n\n".join(tests), encoding="utf-8")
    (tmp_path / "conftest.py").write_text(settings, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n[tool.mypy]\nstrict = true\n', encoding="utf-8"
    )
    return tmp_path


@pytest.mark.soak
def test_project_outside_of_the_checkout_uses_the_fixtures(environment: Path, project: Path) -> None:
    python = environment / "bin" / "python"
    others = [f"-pno:{plugin}" for plugin in ("schemathesis", "hypothesispytest", "timeout", "xdist")]
    assert "5 passed" in output(python, "-m", "pytest", "-q", *others, folder=project)


@pytest.mark.soak
@pytest.mark.postgres
def test_project_outside_of_the_checkout_has_databases_on_a_server(
    environment: Path, project: Path, postgres_server: Server
) -> None:
    server = f"--bindings-database-server={postgres_server.url}"
    assert "5 passed" in output(environment / "bin" / "python", "-m", "pytest", "-q", server, folder=project)


@pytest.mark.soak
def test_project_outside_of_the_checkout_passes_mypy_strict(environment: Path, project: Path) -> None:
    result = output(environment / "bin" / "python", "-m", "mypy", ".", folder=project)
    assert "Success: no issues found in 2 source files" in result


@pytest.mark.processes
def test_import_beside_another_distribution_that_owns_the_package_is_refused(site: Path, tmp_path: Path) -> None:
    other = site / OTHER
    other.mkdir()
    try:
        (other / "RECORD").write_text(f"bindings/__init__.py,,\n{OTHER}/RECORD,,\n")
        result = run(site.parents[2] / "bin" / "bindings", "--version", folder=tmp_path)
    finally:
        (other / "RECORD").unlink()
        other.rmdir()
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the package bindings in ")
    assert "files of two distributions, pns-bindings and bindings 9.9" in last
    assert "`pip uninstall bindings pns-bindings`" in last


@pytest.mark.parametrize("record", [f"bindings_c/__init__.py,,\n{OTHER}/RECORD,,\n", None])
def test_other_distribution_of_that_name_without_files_of_the_package_is_accepted(
    tmp_path: Path, record: str | None
) -> None:
    (tmp_path / OTHER).mkdir()
    if record is not None:
        (tmp_path / OTHER / "RECORD").write_text(record)
    distribution.refuse_clash(str(tmp_path / "bindings"))


def test_check_for_a_clash_accepts_a_package_in_an_archive(tmp_path: Path) -> None:
    distribution.refuse_clash(str(tmp_path / "archive.zip" / "bindings"))


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_production_installs_the_versions_that_the_tests_ran_with() -> None:
    production, tested = pins("production"), pins("dev")
    assert production.items() <= tested.items()
    assert {"psycopg", "litestar", "cryptography"} <= production.keys()
    assert not {"pytest", "mypy", "hatchling"} & production.keys()
    assert pins("demo").items() <= production.items()


def test_locks_have_every_library_that_the_project_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=!; ]", requirement)[0] for requirement in requirements} - {project["name"]}

    for lock in ("demo", "docs"):
        assert names(project["dependencies"]) <= pins(lock).keys()
    optional = [requirement for name, listed in extras.items() if name != "dev" for requirement in listed]
    assert names(optional) <= pins("production").keys()
    assert names(extras["dev"]) <= pins("dev").keys()


def locked_packages(name: str, folder: Path) -> Path:
    """Return a folder with links to what a lock file installs: modules and packages of this environment."""
    for package in pins(name):
        try:
            files = metadata.distribution(package).files
        except metadata.PackageNotFoundError:  # for other systems only
            continue
        assert files is not None
        for part in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if (folder / part).exists():  # a namespace that several packages share
                continue
            (folder / part).symlink_to(Path(sysconfig.get_path("purelib")) / part)
    return folder


def isolated(packages: Path, *arguments: str, folder: Path) -> str:
    """Return the output of Python with this checkout and the locked packages, and nothing else."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(packages)!r}]; "
    start, *rest = arguments
    return output(sys.executable, "-I", "-S", "-c", code + start, *rest, folder=folder)


@pytest.mark.processes
def test_demo_runs_with_the_packages_of_its_lock_only(tmp_path: Path) -> None:
    packages = locked_packages("demo", tmp_path)
    result = isolated(packages, "from bindings.cli import main; main()", "demo", folder=tmp_path)
    assert "The provider's records agree" in result


@pytest.mark.processes
def test_every_module_is_imported_with_the_packages_of_the_production_lock_only(tmp_path: Path) -> None:
    packages = locked_packages("production", tmp_path)
    code = (
        "import bindings, importlib, pkgutil; "
        "names = [module.name for module in pkgutil.walk_packages(bindings.__path__, 'bindings.')"
        " if not module.name.endswith(('__main__', 'testing.plugin'))]; "  # pytest imports its plugin
        "print(len([importlib.import_module(name) for name in names]))"
    )
    assert int(isolated(packages, code, folder=tmp_path)) > 100


def test_make_demo_says_what_it_installs_and_installs_the_lock_of_the_demo_only(tmp_path: Path) -> None:
    commands = output("make", "--dry-run", "--always-make", "--directory", str(ROOT), "demo", folder=tmp_path)
    message, install = (commands.index(text) for text in ('echo "Installing', "requirements/demo.txt\n"))
    assert message < install < commands.index("-m bindings demo")
    assert "requirements/dev.txt" not in commands
    assert "--quiet --require" not in commands, "pip or uv shows the progress"
