"""The book, built once for all tests, and a browser to open it with."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Playwright, sync_playwright

from nalu import runs

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of this run of the tests, the same for all its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def cache(shared):
    """Tests neither read nor fill the cache of whoever runs them."""
    folder = shared / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NALU_CACHE", str(folder))
        yield folder


@pytest.fixture
def computed(monkeypatch):
    """The runs that sweeps of a test really train, as they are."""
    trained, compute = [], runs.compute

    def counting(batch, *arguments):
        trained.extend(batch)
        return compute(batch, *arguments)

    monkeypatch.setattr(runs, "compute", counting)
    return trained


@pytest.fixture(scope="session")
def build():
    """The module ``book/build.py``."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build"] = module  # the processes that execute notebooks import it by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def site(build, shared) -> Path:
    """The folder of a website built from nothing, after executing what was not yet."""
    folder = shared / "site"
    with FileLock(shared / "site.lock"):  # the first worker builds, the others wait
        if not folder.exists():
            subprocess.run(
                [sys.executable, "-c", "import build; build.execute_all()"],
                cwd=ROOT / "book",
                check=True,
            )
            unfinished = shared / "unfinished-site"
            build.site(unfinished)
            unfinished.rename(folder)
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def address(site) -> str:
    """Where the website is served, without a slash at the end."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Silent, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def installed_chromium(playwright: Playwright) -> str | None:
    """Chromium of the system or of Playwright, whichever is there."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def chromium(playwright: Playwright) -> str:
    """A Chromium, installed when there is none and it can be."""
    if path := installed_chromium(playwright):
        return path
    if shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False)
    else:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    return installed_chromium(playwright) or pytest.fail(
        "no Chromium was found, and installing one failed: install your system's package "
        "`chromium`, or run `.venv/bin/python -m playwright install --with-deps chromium`"
    )


@pytest.fixture(scope="session")
def browser(shared):
    with sync_playwright() as playwright:
        with FileLock(shared / "chromium.lock"):  # the first worker installs, the others wait
            path = chromium(playwright)
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()
