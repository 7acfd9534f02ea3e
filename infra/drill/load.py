"""Somebody who asks for slates: `python -m infra.drill.load ADDRESS VIEWERS PAUSE_S BEGUN`.

Each viewer is a thread that asks, waits, and asks again; one whose key is no longer taken ends, as
a client would. The file BEGUN appears with the first answer. The key is in the environment, where
no list of processes shows it to others.
"""

import os
import sys
import threading
import time
from pathlib import Path

from serving.client import Client, RequestError

KEY = "HEADRACE_DRILL_KEY"
TIMEOUT_S = 2.0
OVER = ("UNAUTHENTICATED", "PERMISSION_DENIED")


def ask_for_slates(client: Client, viewer: str, pause_s: float, begun: Path) -> None:
    """Until the key is not taken any more."""
    while True:
        try:
            client.recommend(viewer, timeout_s=TIMEOUT_S)
        except RequestError as error:
            if error.code in OVER:
                return
        begun.touch()
        time.sleep(pause_s)


def main(address: str, viewers: int, pause_s: float, begun: Path) -> None:
    """Runs all viewers until they end."""
    with Client(address, timeout_s=TIMEOUT_S, api_key=os.environ[KEY]) as client:
        threads = [
            threading.Thread(
                target=ask_for_slates, args=(client, f"u{i}", pause_s, begun), daemon=True
            )
            for i in range(viewers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
