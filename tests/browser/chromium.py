"""A real browser without a window, told by the DevTools protocol over a pipe: what it shows, what
it asks of whom, what it complains of. It needs no library, and no port.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
ANSWER_MAX_S = 60.0
PHONE_PX, DESK_PX = 390, 1280
A4_INCHES = (8.27, 11.69)

Event: TypeAlias = dict[str, Any]

# The protocol's file descriptors are 3 and 4; ours are a child's standard ones.
_SHELL = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'
_SWITCHES = (
    "--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-domain-reliability", "--no-default-browser-check",
    "--force-color-profile=srgb", "--font-render-hinting=none", "--disable-dev-shm-usage",
)  # fmt: skip


def find_browser() -> str:
    """The browser of this machine, or the one that CRYPTOMETER_BROWSER names."""
    for name in (os.environ.get("CRYPTOMETER_BROWSER", ""), *NAMES):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    raise FileNotFoundError(f"no browser: make test-browser installs {NAMES[0]}")


class BrowserError(RuntimeError):
    """The browser could not do what it was told; the message says why."""


class Browser:
    """One process. Pages of one `private` window share nothing with those of another."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes the browser's own files, and what is downloaded."""
        self.folder = folder
        words = [find_browser(), *_SWITCHES, f"--user-data-dir={folder / 'profile'}"]
        if os.geteuid() == 0:
            words.append("--no-sandbox")  # it does not build one for root
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SHELL, "sh", *words, "about:blank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._rest = b""
        self._number = 0
        self._answers: dict[int, Event] = {}
        self._events: list[Event] = []

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, method: str, session: str | None = None, **values: Any) -> Any:
        """Has a command carried out, and returns what it gives.

        Raises:
            BrowserError: it could not be.
        """
        number = self.send(method, session, **values)
        ends = time.monotonic() + ANSWER_MAX_S
        while not self.has_answered(number):
            if time.monotonic() > ends:
                raise BrowserError(f"{method} had no answer")
            self.listen(1.0)
        return self.answer(number)

    def send(self, method: str, session: str | None = None, **values: Any) -> int:
        self._number += 1
        said: Event = {"id": self._number, "method": method, "params": values}
        if session is not None:
            said["sessionId"] = session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said).encode() + b"\0")
        self._process.stdin.flush()
        return self._number

    def has_answered(self, number: int) -> bool:
        return number in self._answers

    def answer(self, number: int) -> Any:
        """What a command that was answered gave."""
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(str(answer["error"].get("message")))
        return answer["result"]

    def listen(self, wait_s: float) -> bool:
        """Takes what the browser has said; whether that was anything."""
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        if not select.select([source], [], [], max(0.0, wait_s))[0]:
            return False
        data = os.read(source, 2**20)
        if not data:
            raise BrowserError("the browser ended")
        *whole, self._rest = (self._rest + data).split(b"\0")
        for one in whole:
            said: Event = json.loads(one)
            if "id" in said:
                self._answers[said["id"]] = said
            else:
                self._events.append(said)
        return True

    def take(self, session: str) -> Iterator[Event]:
        """The events of one page, each once."""
        own = [one for one in self._events if one.get("sessionId") == session]
        self._events = [one for one in self._events if one.get("sessionId") != session]
        yield from own

    @contextmanager
    def page(self, *, width_px: int = DESK_PX, scheme: str = "light") -> Iterator["Page"]:
        """A page in a private window of its own."""
        window = self.tell("Target.createBrowserContext")["browserContextId"]
        try:
            page = Page(self, window)
            page.resize(width_px)
            page.prefer(scheme)
            yield page
        finally:
            self.tell("Target.disposeBrowserContext", browserContextId=window)


@dataclass(frozen=True, slots=True)
class Login:
    """What the browser's own question for a name and a password is answered with."""

    name: str
    password: str


class Page:
    """One page, and what happened on it.

    Attributes:
        asked: addresses that were asked for, in order, with the headers sent.
        complaints: what the browser's console says is wrong.
    """

    def __init__(self, browser: Browser, window: str) -> None:
        self._browser = browser
        target = browser.tell("Target.createTarget", url="about:blank", browserContextId=window)
        self._session = browser.tell(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.statuses: list[tuple[str, int]] = []
        self.complaints: list[str] = []
        self.challenges = 0
        self.login: Login | None = None
        self._loads = 0
        self._headers: dict[str, Mapping[str, str]] = {}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.tell(f"{domain}.enable")
        browser.tell(
            "Browser.setDownloadBehavior",
            behavior="allow",
            browserContextId=window,
            downloadPath=str(browser.folder),
        )

    def tell(self, method: str, **values: Any) -> Any:
        number = self._browser.send(method, self._session, **values)
        # What the page asks for meanwhile waits for us, and the answer may wait for that.
        self.until(lambda: self._browser.has_answered(number))
        return self._browser.answer(number)

    # --- What is looked at, and how. ---

    def resize(self, width_px: int, height_px: int = 900) -> None:
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )

    def prefer(self, scheme: str) -> None:
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", features=features)

    def answers_questions(self, login: Login | None) -> None:
        """From now on asks for a password are answered so, once each; None: with Cancel."""
        self.login = login
        self.tell("Fetch.enable", handleAuthRequests=True)

    def open(self, url: str) -> float:
        """Opens an address and waits until it is shown whole; returns how long that took, s."""
        loads, begun = self._loads, time.monotonic()
        self._browser.send("Page.navigate", self._session, url=url)
        self.until(lambda: self._loads > loads)
        # Laid out and painted, not only read.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.monotonic() - begun

    def click(self, selector: str) -> None:
        """Clicks the first of these, and waits for the page that comes."""
        loads = self._loads
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.until(lambda: self._loads > loads)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.tell(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9
            )

    # --- What is there. ---

    def evaluate(self, script: str) -> Any:
        """What an expression of the page comes to."""
        said = self.tell(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in said:
            raise BrowserError(f"{script}: {said['exceptionDetails']}")
        return said["result"].get("value")

    @property
    def text(self) -> str:
        """All that a person could read."""
        return str(self.evaluate("document.body.innerText"))

    @property
    def url(self) -> str:
        return str(self.evaluate("location.href"))

    def roles(self) -> list[tuple[str, str]]:
        """Role and name of everything, as a screen reader is told."""
        nodes = self.tell("Accessibility.getFullAXTree")["nodes"]
        return [
            (node.get("role", {}).get("value", ""), node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def picture(self, file: Path, *, whole: bool = True) -> Path:
        """A PNG of the page."""
        said = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(said["data"]))
        return file

    def pdf(self) -> bytes:
        """The page as it prints on A4."""
        width, height = A4_INCHES
        said = self.tell(
            "Page.printToPDF", paperWidth=width, paperHeight=height, printBackground=True
        )
        return base64.b64decode(said["data"])

    # --- What happened. ---

    def until(self, happened: Callable[[], bool]) -> None:
        """Heeds what the browser says until it has."""
        ends = time.monotonic() + ANSWER_MAX_S
        while True:
            self._heed()
            if happened():
                return
            if time.monotonic() > ends:
                raise BrowserError("it did not come")
            self._browser.listen(0.1)

    def _heed(self) -> None:
        for event in list(self._browser.take(self._session)):
            self._note(event["method"], event.get("params", {}))

    def _note(self, method: str, said: Event) -> None:
        match method:
            case "Page.loadEventFired":
                self._loads += 1
            case "Network.requestWillBeSent":
                self.asked.append((said["request"]["url"], said["request"]["headers"]))
            case "Network.responseReceived":
                self.statuses.append((said["response"]["url"], said["response"]["status"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(said["args"]))
            case "Log.entryAdded":
                self.complaints.append(said["entry"]["text"])
            case "Fetch.requestPaused":
                self._browser.send(
                    "Fetch.continueRequest", self._session, requestId=said["requestId"]
                )
            case "Fetch.authRequired":
                self._answer_question(said["requestId"])

    def _answer_question(self, request: str) -> None:
        self.challenges += 1
        login, self.login = self.login, None
        answer: Event = {"response": "CancelAuth"}
        if login is not None:
            answer = {
                "response": "ProvideCredentials",
                "username": login.name,
                "password": login.password,
            }
        self._browser.send(
            "Fetch.continueWithAuth", self._session, requestId=request, authChallengeResponse=answer
        )
