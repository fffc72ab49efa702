"""Lambda Managed Instances: the runtime client forks a process for each concurrent request, before it loads the handler."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from end_to_end.runtime_api import RuntimeApi
from local_stack.application import Application
from local_stack.stack import ROLE, SECRET_PATH, TABLE, LocalStack, decrypt_statement, share_statement

FUNCTION = Path(__file__).with_name("functions") / "concurrent"
PROCESSES = 32


@pytest.mark.parametrize("table", [None, TABLE])
def test_thirty_two_processes_authenticate_once(
    stack: LocalStack, application: Application, tmp_path: Path, table: str | None
) -> None:
    layers = application.functions["NightlyReportFunction"].layers
    stack.create_table()
    policy = {"Version": "2012-10-17", "Statement": [decrypt_statement(), share_statement(ROLE)]}
    stack.aws.put_role_policy(ROLE, policy)
    stack.cerberus.answer_after_seconds = 0.3
    environment = stack.environment(ROLE, SECRET_PATH=SECRET_PATH, TMPDIR=str(tmp_path))
    environment |= {"CERBERUS_SHARED_CACHE_TABLE": table} if table else {}
    with RuntimeApi(FUNCTION, layers, environment | {"AWS_LAMBDA_MAX_CONCURRENCY": str(PROCESSES)}) as lambda_:
        answers = lambda_.invoke_at_once([{}] * PROCESSES)
        log = lambda_.close()
    assert {answer.get("error") for answer in answers} == {None}
    assert len({answer["process"] for answer in answers}) == PROCESSES
    assert len({answer["token"] for answer in answers}) == 1
    assert stack.cerberus.authentications == 1
    # One process asks for the token's item, and for the one that tells whether Cerberus is to be left alone.
    assert stack.aws.count("dynamodb", "GetItem") == (2 if table else 0)
    assert "cannot be used" not in log
    assert os.listdir(tmp_path) == [f"cerberus-auth-{os.geteuid()}"]
