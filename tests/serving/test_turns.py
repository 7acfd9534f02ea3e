"""Computations wait in one line, and the event loop looks round between two of them."""

import asyncio

import pytest

from serving.turns import Turns


def test_who_comes_alone_need_not_wait():
    async def scenario():
        turns = Turns()
        taking = turns.take()
        with pytest.raises(StopIteration):
            taking.send(None)  # done at once: nothing was awaited

    asyncio.run(scenario())


def test_turns_are_taken_in_order_and_what_is_ready_comes_between():
    async def scenario():
        turns, told = Turns(), []

        async def compute(name):
            await turns.take()
            told.append(name)
            asyncio.get_running_loop().call_soon(told.append, f"after {name}")

        await asyncio.gather(*(compute(name) for name in "abc"))
        await asyncio.sleep(0)
        return told

    assert asyncio.run(scenario()) == ["a", "after a", "b", "after b", "c", "after c"]


@pytest.mark.parametrize("has_been_given", [False, True])
def test_a_turn_that_nobody_takes_any_more_goes_to_the_next(has_been_given):
    async def scenario():
        turns, told = Turns(), []

        async def compute(name):
            await turns.take()
            told.append(name)

        _, gone, last = [asyncio.create_task(compute(name)) for name in "abc"]
        await asyncio.sleep(0)
        assert turns.n_waiting == 2
        if has_been_given:
            await asyncio.sleep(0)
            assert turns.n_waiting == 1
        gone.cancel()
        await asyncio.wait_for(last, 5)
        await asyncio.wait_for(compute("d"), 5)
        return told

    assert asyncio.run(scenario()) == ["a", "c", "d"]
