"""A headless Chromium for tests of pages, driven by its DevTools protocol over a pipe.

As a program it takes a picture of a page, such as the one in the README:

    uv run python tests/browser.py results/digits/report.html docs/report.png --height 1400 --scale 0.75
"""

import argparse
import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Path of an installed Chromium, for example Debian's package of that name; None without one."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """A running browser with one tab; a context manager, which ends it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--disable-background-networking", f"--user-data-dir={self.folder.name}", "--remote-debugging-pipe"]
        # The browser reads commands from descriptor 3 and writes answers to descriptor 4; the shell puts them there.
        # They must not be 3 or 4 already, and not every shell names descriptors of two digits.
        moved = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        os.close(commands)
        os.close(answers)
        commands, answers = moved
        script = f'exec "$@" 3<&{commands} 4>&{answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program() or "chromium", *options],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.sent, self.received, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError, OSError):
            self.call("Browser.close")
        self.process.wait(timeout=20)
        os.close(self.commands)
        os.close(self.answers)
        self.folder.cleanup()

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol; events that come before its answer are kept in `events`."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.sent:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            chunk = os.read(self.answers, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self.received += chunk
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def open(
        self, page: Path, width: int, *, height: int = 900, dark: bool = False, scale: float = 1.0, anchor: str = ""
    ) -> None:
        """Open a file as on a screen so many CSS pixels wide; below 500, as on a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri() + anchor)
        for _ in range(300):
            if self.evaluate("location.href != 'about:blank' && document.readyState") == "complete":
                return
            time.sleep(0.05)
        raise RuntimeError(f"{page}: was not loaded")

    def evaluate(self, code: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def picture(self, path: Path, clip: tuple[float, float, float, float] | None = None) -> None:
        """Write a picture of the page, or of a part of it (x, y, width, height), as the format of its name."""
        options: dict[str, Any] = {"format": {".webp": "webp", ".jpg": "jpeg"}.get(path.suffix, "png")}
        if options["format"] == "webp":
            options["quality"] = 80
        if clip:
            options["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=bool(clip), **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        data = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]
        path.write_bytes(base64.b64decode(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path, help="PNG or WebP file")
    parser.add_argument("--width", type=int, default=1280, help="CSS pixels (default: 1280)")
    parser.add_argument("--top", type=int, default=0, help="first row of the picture (default: 0)")
    parser.add_argument("--height", type=int, default=900, help="rows of the picture; 0: to the end (default: 900)")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture per CSS pixel (default: 1)")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--open", action="store_true", help="open all closed studies")
    args = parser.parse_args()
    with Browser() as browser:
        browser.open(args.page, args.width, dark=args.dark, scale=args.scale)
        if args.open:
            browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        end = browser.evaluate("document.documentElement.scrollHeight")
        height = min(args.height or end, end - args.top)
        browser.picture(args.picture, (0, args.top, args.width, height))
        print(f"{args.picture}: rows {args.top} to {args.top + height} of {end}")


if __name__ == "__main__":
    main()
