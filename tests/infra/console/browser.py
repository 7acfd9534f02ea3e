"""A real Chromium that tests drive, where Debian's packages chromium and chromium-driver are."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

DESKTOP = (1280, 900)
PHONE = (360, 780)


def why_not_here() -> str:
    """Why no browser can be driven here; empty where one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"Debian's {' and '.join(missing)} not installed" if missing else ""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window, asked for nothing but what the page asks for itself."""
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for word in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        "--force-color-profile=srgb", "--hide-scrollbars",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()


def look_like(driver: webdriver.Chrome, size: tuple[int, int], *, is_dark: bool) -> None:
    """The page as a window of this size and a system of this brightness show it."""
    width, height = size
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    value = "dark" if is_dark else "light"
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": value}]},
    )


def picture(driver: webdriver.Chrome, path: Path, height: int) -> None:
    """The top of the page as a PNG."""
    width = driver.execute_script("return window.innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    found = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "clip": clip, "captureBeyondViewport": True}
    )
    path.write_bytes(base64.b64decode(found["data"]))
