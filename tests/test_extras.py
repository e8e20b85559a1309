"""A program without the optional libraries: every call that needs one says which extra to install."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import io
import json
import os
import re
import sys
from contextlib import redirect_stderr
from importlib.metadata import packages_distributions
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

distributions = set(sys.argv[1].split())
MISSING = {
    module
    for module, names in packages_distributions().items()
    if distributions & {re.sub("[-_.]+", "-", name).lower() for name in names}
}
assert {"psycopg", "cryptography", "litestar", "standardwebhooks", "structlog"} <= MISSING
sys.meta_path.insert(0, Missing())

from bindings import BindingService, errors
from bindings.cli.root import root
from bindings.sealing import keys
from bindings.store import phone_key_source
from bindings.testing import open_environment, temporary_database

def raised(call):
    stderr = io.StringIO()
    try:
        with redirect_stderr(stderr):
            call()
    except errors.InvalidRequest as error:
        return str(error)
    except SystemExit as exited:
        return f"{exited.code}: {stderr.getvalue()}"

phone_key_source.write_new(Path("phone-keys.json"))
Path("public.pem").write_text("")
calls = {
    "database": lambda: BindingService.open(environment={}, database_url="postgresql://localhost/x"),
    "phone keys": lambda: BindingService.open(environment={}, phone_keys_file="phone-keys.json"),
    "new seal key": lambda: keys.create_key_file("seal.pem", "FILE"),
    "seal key": lambda: keys.load_signing_key("public.pem", "FILE"),
    "public keys": lambda: keys.PublicKeys("", "FILE"),
    "server database": temporary_database("postgresql://localhost/x").__enter__,
}
with open_environment() as environment:
    calls |= {
        "receiver": environment.receive_webhooks,
        "http": lambda: environment.serve().__enter__(),
        "deliver": lambda: environment.run_job("deliver"),
        "serve": lambda: root(["serve"], standalone_mode=False),
        "test of a webhook": lambda: root(["webhooks", "test", "no-such-id"], standalone_mode=False),
    }
    phones = {"phone_a": "9188067701", "phone_b": "9188067799"}
    environment.service.bind(**phones, pool_number="918806", expire_s=60, mode="AXB")
    environment.pass_time(120)
    os.environ["BINDINGS_DATABASE_URL"] = environment.settings["database_url"]
    environment.service.webhooks.add(url="https://example.com/")
    print(json.dumps({name: raised(call) for name, call in calls.items()}))
"""


@pytest.mark.processes
def test_call_without_the_library_of_an_extra_says_how_to_install_it(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    libraries = {
        requirement.partition("[")[0].partition(">")[0].partition("=")[0]
        for extra in ("encryption", "otel", "postgres", "server")
        for requirement in extras[extra]
    }
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(libraries)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    extra_of = {
        "database": "postgres",
        "phone keys": "encryption",
        "new seal key": "encryption",
        "seal key": "encryption",
        "public keys": "encryption",
        "server database": "postgres",
        "receiver": "server",
        "http": "server",
        "deliver": "server",
        "serve": "server",
        "test of a webhook": "server",
    }
    messages = json.loads(program.stdout)
    assert set(messages) == set(extra_of)
    for name, extra in extra_of.items():
        assert f"run `pip install 'pns-bindings[{extra}]'`" in str(messages[name]), name
