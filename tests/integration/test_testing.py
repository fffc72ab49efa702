"""What users test their own functions with: as they would, in a pytest of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import requests
from hatchling.builders.wheel import WheelBuilder

from cerberus_auth import CerberusAuth, CerberusClient, InvalidResponse
from cerberus_auth.testing import FakeCerberus
from integration.users_tests import run_users_tests

pytest_plugins = ["cerberus_auth.testing.plugin"]

ROOT = Path(__file__).resolve().parents[2]

APP = """
from cerberus_auth import CerberusClient, CerberusError

cerberus = CerberusClient()

def handler(event, context):
    try:
        return cerberus.read("app/orders/db", max_age=60)["username"]
    except CerberusError as error:
        return type(error).__name__
"""


def test_a_users_tests_by_the_fixture(tmp_path: Path) -> None:
    done = run_users_tests(
        tmp_path,
        APP,
        """
        import gc
        import sys
        import threading

        import pytest
        from cerberus_auth.testing import Fault

        @pytest.fixture
        def app(fake_cerberus):
            fake_cerberus.put_secret("app/orders/db", {"username": "orders"})
            return fake_cerberus.cold_start("app")

        def test_it_reads_and_authenticates_once(app, fake_cerberus):
            assert [app.handler({}, None) for _ in range(3)] == ["orders"] * 3
            assert fake_cerberus.authentications == 1
            assert [call.path for call in fake_cerberus.calls] == ["/v2/auth/iam-principal", "/v1/secret/app/orders/db"]
            assert "boto3" not in sys.modules

        def test_each_cold_start_is_a_container_of_its_own(app, fake_cerberus):
            assert app.handler({}, None) == "orders"
            fake_cerberus.put_secret("app/orders/db", {"username": "other"})
            assert app.handler({}, None) == "orders"
            assert fake_cerberus.cold_start("app").handler({}, None) == "other"
            assert fake_cerberus.authentications == 2

        @pytest.mark.parametrize("_", range(2))
        def test_a_package_whose_client_is_in_a_module_below(fake_cerberus, tmp_path, monkeypatch, _):
            package = tmp_path / "orders"
            package.mkdir()
            (package / "__init__.py").write_text("from .secrets import cerberus")
            (package / "secrets.py").write_text("from cerberus_auth import CerberusClient; cerberus = CerberusClient()")
            monkeypatch.syspath_prepend(tmp_path)
            fake_cerberus.put_secret("app/orders/db", {"username": "orders"})
            assert fake_cerberus.cold_start("orders").cerberus.read("app/orders/db") == {"username": "orders"}

        def test_no_connection_outlives_its_test():
            from cerberus_auth.lifecycle.process import process
            process._shared.clear()
            gc.collect()  # -W error: a socket left open would be told of

        def test_a_token_revoked(app, fake_cerberus):
            app.cerberus.read("app/orders/db")
            fake_cerberus.revoke()
            assert app.handler({}, None) == "orders"
            assert fake_cerberus.authentications == 1
            assert app.cerberus.read("app/orders/db", fresh=True) == {"username": "orders"}
            assert fake_cerberus.authentications == 2

        def test_a_role_in_no_box(app, fake_cerberus):
            fake_cerberus.deny()
            assert app.handler({}, None) == "PrincipalRejected"

        def test_a_secret_that_is_not_there(app, fake_cerberus):
            with pytest.raises(LookupError):
                try:
                    app.cerberus.read("app/orders/nothing")
                except Exception as error:
                    raise LookupError from error

        @pytest.mark.parametrize("fault", [Fault.status(503), Fault.reset(), Fault.html(), Fault.hang()])
        def test_a_service_in_trouble(app, fake_cerberus, fault, monkeypatch):
            monkeypatch.setenv("CERBERUS_TIMEOUT", "1")
            app = fake_cerberus.cold_start("app")
            fake_cerberus.fail(fault)
            assert app.handler({}, None) in ("CerberusUnavailable", "DeadlineExceeded", "InvalidResponse")
            for thread in threading.enumerate():  # a request of before the recovery must not fail the next caller
                if thread.name == "cerberus-auth":
                    thread.join(10)
            fake_cerberus.recover()
            app.cerberus._auth.invalidate()
            assert app.handler({}, None) == "orders"

        def test_the_first_answer_only(app, fake_cerberus):
            fake_cerberus.fail(Fault.status(503), when=lambda request: request.path.startswith("/v1/secret"), times=1)
            assert app.handler({}, None) == "orders"

        def test_by_sts(fake_cerberus, monkeypatch):
            monkeypatch.setenv("CERBERUS_AUTH_METHOD", "sts")
            fake_cerberus.put_secret("app/orders/db", {"username": "by STS"})
            assert fake_cerberus.cold_start("app").handler({}, None) == "by STS"

        def test_discovery(fake_cerberus, monkeypatch):
            monkeypatch.delenv("CERBERUS_IAM_ROLE_ARN")
            fake_cerberus.put_secret("app/orders/db", {"username": "discovered"})
            assert fake_cerberus.cold_start("app").handler({}, None) == "discovered"

        def test_a_file(fake_cerberus):
            fake_cerberus.put_file("app/orders/key.pem", b"...")
            assert fake_cerberus.cold_start("app").cerberus.read_file("app/orders/key.pem") == b"..."

        def test_nothing_is_left():
            import os
            assert "CERBERUS_URL" not in os.environ
            assert "app" not in sys.modules
            assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("listener")]
        """,
        CERBERUS_TIMEOUT="of the developer",
        HTTPS_PROXY="http://proxy.invalid:3128",
    )
    assert done.returncode == 0, done.stdout
    assert "17 passed" in done.stdout


def test_without_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeCerberus({"app/orders/db": {"username": "orders"}}) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        auth = CerberusAuth()
        assert CerberusClient(auth).read("app/orders/db") == {"username": "orders"}
        auth.close()
    assert fake.authentications == 1


def test_the_database_of_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeCerberus({"app/orders/db": {"username": "orders"}}) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        auth = CerberusAuth()
        url = f"{fake.environment['CERBERUS_URL']}/v1/secret/app/orders/db"
        headers = {"X-Cerberus-Token": auth.token()}

        def status() -> int:
            return requests.get(url, headers=headers, timeout=20).status_code

        with fake.database_down():
            assert status() == 401
        with fake.database_hanging(0.1):
            assert status() == 401
        with fake.database_hanging(), pytest.raises(requests.Timeout):
            requests.get(url, headers=headers, timeout=0.1)
        assert status() == 200
        auth.close()
    assert fake.authentications == 1


def test_a_module_imported_before_is_put_back(fake_cerberus: FakeCerberus) -> None:
    import email.mime.text as before
    from email import mime

    assert fake_cerberus.cold_start("email.mime.text") is not before
    fake_cerberus.close()
    assert sys.modules["email.mime.text"] is mime.text is before


@pytest.mark.parametrize("aws_client", ["signed", "sdk"])
@pytest.mark.parametrize(("role", "discovered"), [("a/b", False), ("a.b@c", False), ("a.b@c", True)])
def test_any_role_in_either_client(
    monkeypatch: pytest.MonkeyPatch, role: str, aws_client: str, discovered: bool
) -> None:
    with FakeCerberus({"app/orders/db": {}}, role_arn=f"arn:aws:iam::111111111111:role/{role}") as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        if discovered:
            monkeypatch.delenv("CERBERUS_IAM_ROLE_ARN", raising=False)
        monkeypatch.setenv("CERBERUS_AUTH_METHOD", "kms")
        monkeypatch.setenv("CERBERUS_AWS_CLIENT", aws_client)
        assert CerberusAuth().token()


def test_another_region_decrypts_nothing(fake_cerberus: FakeCerberus, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cerberus.put_secret("app/orders/db", {})
    auth_data = requests.post(
        f"{fake_cerberus.environment['CERBERUS_URL']}/v2/auth/iam-principal",
        json={"iam_principal_arn": fake_cerberus.role_arn, "region": "eu-west-1"},
        timeout=5,
    ).json()["auth_data"]
    answer = requests.post(
        fake_cerberus.environment["AWS_ENDPOINT_URL_KMS"],
        json={"CiphertextBlob": auth_data},
        headers={
            "X-Amz-Target": "TrentService.Decrypt",
            "Authorization": "AWS4-HMAC-SHA256 Credential=A/20260101/us-west-2/kms/aws4_request",
        },
        timeout=5,
    )
    assert (answer.status_code, answer.json()["__type"]) == (400, "AccessDeniedException")


def test_it_decrypts_only_what_it_encrypted(fake_cerberus: FakeCerberus, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cerberus.put_secret("app/orders/db", {})
    with FakeCerberus() as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", other.environment["AWS_ENDPOINT_URL_KMS"])
        auth = CerberusAuth()
        with pytest.raises(InvalidResponse, match="InvalidCiphertextException"):
            auth.token()
        auth.close()


def test_the_wheel_has_it_and_tells_pytest(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(wheel) as zipped:
        assert "cerberus_auth/testing/plugin.py" in zipped.namelist()
        assert "cerberus_auth/py.typed" in zipped.namelist()
        (points,) = [name for name in zipped.namelist() if name.endswith("entry_points.txt")]
        assert "cerberus-auth = cerberus_auth.testing.plugin" in zipped.read(points).decode()
