"""The number of requests at once grows with answers and is halved by refusals."""

import asyncio

from service.batch.remote.window import Window


def test_a_window_of_answers_adds_one_request():
    window = Window(size=4)
    for _ in range(4):
        window.answered()
    assert 4.9 < window.size <= 5


def test_refusals_of_requests_sent_together_halve_the_window_once():
    window = Window(size=16)
    tokens = [asyncio.run(window.enter()) for _ in range(5)]
    for token in tokens:
        window.refused(token)
    assert window.size == 8
    window.refused(asyncio.run(window.enter()))
    assert window.size == 4


def test_the_window_stays_within_its_limits():
    window = Window(size=1, most=3)
    window.refused(asyncio.run(window.enter()))
    assert window.size == 1
    for _ in range(100):
        window.answered()
    assert window.size == 3


def test_requests_take_turns_and_no_more_are_under_way_than_the_window_ever_has():
    async def run():
        window, most, entered, done = Window(size=3, most=6), [], [], []

        async def one(number):
            token = await window.enter()
            most.append(window.busy)
            entered.append(number)
            await asyncio.sleep(0)
            window.leave()
            if number % 7 == 0:
                window.refused(token)
            else:
                window.answered()
            done.append(number)

        await asyncio.gather(*(one(number) for number in range(200)))
        assert len(done) == 200 and window.busy == 0
        assert max(most) <= 6 and entered == sorted(entered)

    asyncio.run(run())
