"""Pictures of a running console, as docs/console.md shows them.

    python -m tests.infra.console.screenshots http://127.0.0.1:9470/ load docs/images

saves console-load-desktop.png (light) and console-load-phone.png (dark).
"""

import sys
from pathlib import Path

from PIL import Image

from tests.flows import wait_until
from tests.infra.console.browser import DESKTOP, PHONE, chromium, look_like, picture

MAX_BYTES = 300_000
DESKTOP_HEIGHT, PHONE_HEIGHT = 1_700, 1_250


def take(url: str, name: str, folder: Path) -> list[Path]:
    """Both pictures, once the page has its first snapshot."""
    shapes = (
        ("desktop", DESKTOP, DESKTOP_HEIGHT, False),
        ("phone", PHONE, PHONE_HEIGHT, True),
    )
    taken = []
    with chromium() as driver:
        for device, size, height, is_dark in shapes:
            look_like(driver, size, is_dark=is_dark)
            driver.get(url)
            wait_until(
                lambda: driver.execute_script("return document.querySelectorAll('.panel').length")
            )
            path = folder / f"console-{name}-{device}.png"
            picture(driver, path, height)
            with Image.open(path) as full:
                few = full.convert("RGB").quantize(128)
            few.save(path, optimize=True)
            assert path.stat().st_size < MAX_BYTES, path
            taken.append(path)
    return taken


if __name__ == "__main__":
    take(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
