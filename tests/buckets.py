"""A bucket to test with: moto, an emulator of S3 in a process of its own, and no store.

It has the protocol and keeps objects in memory; it checks no signature, is never busy, and never
fails by itself: `tests.faults` does that. Where moto is not installed the tests skip.
"""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest

SECRET = "wJalrXUtnFEMIsecret"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests are over, however they end
"""
# It asks who calls only where an object is replaced, and then takes any name.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
_numbers = count()


@contextmanager
def emulator() -> Iterator[int]:
    """The port of an emulator."""
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
        self.name = f"bucket{next(_numbers)}"
        self.uri = f"s3://{self.name}"
        self.ask("PUT", "")

    def ask(self, method: str, key: str, body: bytes = b"", query: str = "") -> bytes:
        """The body of an answer.

        Raises:
            KeyError: There is no such object.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, f"/{self.name}/{quote(key)}{query}", body, SIGNED)
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
        listed = ElementTree.fromstring(self.ask("GET", "", query="?list-type=2"))
        keys = {item.text for item in listed.iter() if item.tag.endswith("}Key")}
        return {key for key in keys if not key.endswith("/")}


def environment(url: str) -> dict[str, str]:
    """What a process needs to know of a store."""
    assert urlsplit(url).port
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
