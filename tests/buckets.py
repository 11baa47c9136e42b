"""A bucket to test with: moto, an emulator of S3 in a process of its own, and no store.

It has the protocol and keeps objects in memory; it checks no signature, is never busy, and never
fails by itself: `tests.faults` does that. Where moto is not installed the tests skip; MOTO_PYTHON
may name the Python of another environment that has it. With TEST_STORE, the port of a store on this
machine that knows the user `KEY` with `SECRET`, the tests run against that: that of Ceph passed.
"""

import hashlib
import hmac
import http.client
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

KEY, SECRET = "AKIATEST", "wJalrXUtnFEMIsecret"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests are over, however they end
"""


@contextmanager
def emulator() -> Iterator[int]:
    """The port of an emulator."""
    if port := os.environ.get("TEST_STORE"):
        yield int(port)
        return
    python = os.environ.get("MOTO_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import moto.server"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("moto, flask and flask-cors, an emulator of S3, are not installed")
    process = subprocess.Popen(
        [python, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        yield int(process.stdout.readline())
        process.stdin.close()


class Bucket:
    """A new bucket, written and looked into without the code that is tested."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.name = f"bucket-{secrets.token_hex(4)}"
        self.uri = f"s3://{self.name}"
        self.ask("PUT", "")

    def ask(self, method: str, key: str, body: bytes = b"", query: str = "") -> bytes:
        """The body of an answer.

        Raises:
            KeyError: There is no such object.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        path = f"/{self.name}/{quote(key)}".removesuffix("/")
        headers = _signed(method, f"127.0.0.1:{self.port}", path, query, body)
        connection.request(method, f"{path}?{query}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status == 404:
            raise KeyError(key)
        assert answer.status < 300, (answer.status, content)
        return content

    def put(self, key: str, content: bytes) -> str:
        """Write an object, and return its URI."""
        self.ask("PUT", key, content)
        return f"{self.uri}/{key}"

    def get(self, key: str) -> bytes:
        return self.ask("GET", key)

    @property
    def names(self) -> set[str]:
        """All that has a name, but for the folders that pyarrow marks where a file was deleted."""
        listed = ElementTree.fromstring(self.ask("GET", "", query="list-type=2"))
        keys = {item.text for item in listed.iter() if item.tag.endswith("}Key")}
        return {key for key in keys if not key.endswith("/")}


def _signed(method: str, host: str, path: str, query: str, body: bytes) -> dict[str, str]:
    """The headers of a request that is signed in the way of AWS, version 4."""
    now, digest = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}", hashlib.sha256(body).hexdigest()
    signed = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    names = ";".join(signed)
    request = "\n".join([method, path, query, lines, names, digest])
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature="
    return {**signed, "Authorization": signature + key.hex()}


def environment(url: str) -> dict[str, str]:
    """What a process needs to know of a store."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
