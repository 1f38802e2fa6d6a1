"""`make test-kubernetes` takes no cluster that it was not told, whatever kubectl's own current context is."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml

from tests.cluster.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def production(tmp_path):
    """Requests that kubectl's current context, a server of ours, has got; and the file that names it."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(500)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    file = tmp_path / "config"
    clusters = [{"name": "production", "cluster": {"server": url}}]
    contexts = [{"name": "production", "context": {"cluster": "production", "user": "me"}}]
    tree = {"apiVersion": "v1", "kind": "Config", "current-context": "production"}
    file.write_text(yaml.safe_dump(tree | {"clusters": clusters, "contexts": contexts, "users": []}))
    yield asked, file
    server.shutdown()
    server.server_close()


def steps(config, context: str) -> str:
    """What is said of the steps by `make test-kubernetes CONTEXT=context`."""
    given = os.environ | {"KUBECONFIG": str(config), "FT2RAY_KUBERNETES_CONTEXT": context}
    command = [sys.executable, "-m", "pytest", "-m", "kubernetes", "-rs", "tests/cluster/test_kubernetes.py"]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" not in done.stdout and " skipped" in done.stdout, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("context", "reason"),
    [("", "no cluster was named"), ("elsewhere", 'context "elsewhere" does not exist')],
    ids=["none", "unknown"],
)
def test_a_context_that_was_not_named_is_not_asked(production, context, reason):
    asked, config = production
    assert reason in steps(config, context)
    assert asked == []


def test_a_named_context_that_does_not_answer_skips_with_the_reason(production):
    asked, config = production
    assert "the cluster of context production cannot be reached" in steps(config, "production")
    assert asked, "it was named, so it is asked"


def test_the_makefile_hands_the_context_on():
    done = subprocess.run(
        ["make", "--dry-run", "test-kubernetes", "CONTEXT=kind-kind"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert 'FT2RAY_KUBERNETES_CONTEXT="kind-kind"' in done.stdout and "-m kubernetes" in done.stdout
