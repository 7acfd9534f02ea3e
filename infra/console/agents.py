"""Views of the Faust agents, where they run: they remember longer than the console does."""

import json
from collections.abc import Mapping
from typing import Final

from infra.console.processes import fetched

VIEWS: Final = ("dead-letters", "experiments")


def views_of(url: str) -> Mapping[str, object]:
    """The agents' views by name. Raises OSError and ValueError."""
    return {name: json.loads(fetched(f"{url.rstrip('/')}/views/{name}.json")) for name in VIEWS}
