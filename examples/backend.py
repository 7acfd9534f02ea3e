"""A backend in one page: shows a slate, tells what was done, scrolls, and survives trouble.

python examples/backend.py 127.0.0.1:50051 ann
"""

import sys
import uuid
from itertools import islice

from features.events import Interaction
from features.vocabulary import Device, EventType, Page
from serving.client import Client, Recommendations, Request, RequestError


def home_page(headrace: Client, user_id: str) -> list[Recommendations]:
    """The first two pages of an endless slate; a retry with the same ids changes nothing."""
    request = Request(
        user_id, count=10, page=Page.HOME, device=Device.WEB, request_id=uuid.uuid4().hex
    )
    return list(islice(headrace.pages(request), 2))


def watch(headrace: Client, user_id: str, slate: Recommendations, slot: int) -> Recommendations:
    """Tells that a title of a slate was watched; the next slate knows it."""
    item = slate.items[slot]
    seen = Interaction(
        uuid.uuid4().hex,  # the same id again has no second effect
        user_id,
        item.item_id,
        EventType.COMPLETE,
        request_id=slate.request_id,
        slot=slot,
    )
    position = headrace.track(seen)
    return headrace.recommend(user_id, count=10, after=position, wait_ms=500)


def main(target: str, user_id: str) -> None:
    """Prints what a viewer would see."""
    with Client(target, timeout_s=2.0) as headrace:
        try:
            first, second = home_page(headrace, user_id)
            print("shown:", [item.title for item in (*first.items, *second.items)])
            after = watch(headrace, user_id, first, slot=0)
            print("knows it:", after.freshness.after_included, after.degraded)
            print("now:", [f"{item.title} ({item.reason})" for item in after.items])
            print(headrace.explain(Request(user_id), first.items[0].item_id).summary)
        except RequestError as error:
            print("no slate:", error.code, error.message)
            raise SystemExit(1) from error


if __name__ == "__main__":
    main(*sys.argv[1:3])
