"""What the package loads, and when: each test looks at a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cerberus_auth

LAYER = Path(cerberus_auth.__file__).parent.parent


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a bare interpreter has after running the code."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    script = f"import sys; sys.path.insert(0, {str(LAYER)!r})\n{code}\n{show}"
    command = [sys.executable, "-I", "-S", "-c", script]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_nothing_but_itself() -> None:
    assert loaded_by("import cerberus_auth") - loaded_by("") == {"cerberus_auth"}


def test_what_comes_before_a_token_loads_no_http_library_no_sdk_and_no_dataclasses() -> None:
    code = """
import os
os.environ |= {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
               "AWS_SECRET_ACCESS_KEY": "example", "AWS_LAMBDA_FUNCTION_NAME": "web"}
from cerberus_auth import CerberusAuth, CerberusClient
CerberusClient(CerberusAuth())
"""
    heavy = {
        "requests",
        "urllib3",
        "boto3",
        "botocore",
        "cachetools",
        "aws_lambda_powertools",
        "dataclasses",
        "typing",
        "inspect",
        "locale",
        "http",
        "email",
    }
    loaded = loaded_by(code)
    assert not loaded & heavy - loaded_by("import ssl")  # older Pythons load `locale` for it
    assert "ssl" in loaded  # the certificate store is loaded with the function, not in its first invocation


def test_every_public_name_is_there_and_no_other() -> None:
    for name in cerberus_auth.__all__:
        assert getattr(cerberus_auth, name)
    assert set(cerberus_auth.__all__) <= set(dir(cerberus_auth))
    assert not hasattr(cerberus_auth, "Cerberus")


def test_what_a_fleet_needs_is_loaded_only_where_it_shares() -> None:
    code = """
import os
os.environ |= {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
               "AWS_SECRET_ACCESS_KEY": "example", "AWS_LAMBDA_FUNCTION_NAME": "web"%s}
from cerberus_auth import CerberusAuth
CerberusAuth()
import sys
ours = [name.removeprefix("cerberus_auth.").replace(".", "_") for name in sys.modules if name.startswith("cerberus_auth.")]
sys.modules.update({f"loaded_{name}": sys for name in ours})
"""
    shared = {"loaded_sharing_policy", "loaded_sharing_table", "loaded_sharing_file", "loaded_sharing_seal"}
    assert not loaded_by(code % "") & shared
    table = ', "CERBERUS_SHARED_CACHE_TABLE": "table", "CERBERUS_KMS_ACCOUNT_ID": "222222222222"'
    assert loaded_by(code % table) & shared == {"loaded_sharing_policy", "loaded_sharing_table"}
    assert loaded_by(code % ', "AWS_LAMBDA_MAX_CONCURRENCY": "8"') & shared == {
        "loaded_sharing_policy",
        "loaded_sharing_file",
    }


def test_the_middleware_for_powertools_does_without_boto3() -> None:
    code = f"import sys; sys.path[1:1] = {sys.path!r}\nimport cerberus_auth.powertools.middleware"
    assert "aws_lambda_powertools" in loaded_by(code)
    assert "boto3" not in loaded_by(code)


def test_the_extension_does_without_http_client() -> None:
    code = f"import sys; sys.path[1:1] = {sys.path!r}\nimport cerberus_auth.lifecycle.extension"
    assert not loaded_by(code) & {"http", "email"}


def test_snapstart_without_its_hooks_warns_once_and_works() -> None:
    """An image with a runtime client that is not AWS's lacks the package, and the package alone would only hide that."""
    code = """
import logging, os, sys
sys.modules["snapshot_restore_py"] = None
os.environ |= {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
               "AWS_SECRET_ACCESS_KEY": "example", "AWS_LAMBDA_FUNCTION_NAME": "web",
               "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
from cerberus_auth import CerberusAuth, CerberusClient, Settings
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("cerberus_auth").addHandler(handler)
CerberusClient(CerberusAuth())
CerberusAuth(Settings(url="https://other.example.com", region="us-west-2"))
assert len(said) == 1 and "snapshot-restore-py" in said[0], said
assert "Use an AWS base image or AWS's runtime interface client (awslambdaric)" in said[0] and "Add" not in said[0], said
"""
    assert "cerberus_auth" in loaded_by(code)
