import asyncio
import threading

import pytest
import torch

from vlv.serving.batching import Asked, Batcher, ClosedError, QueueFullError, Said

PIXELS = torch.zeros(3, 2, 2, dtype=torch.uint8)


class FakeEngine:
    """Says its batch's size; may be held, and fails on batches that are too large or on images of value 9."""

    prompt_tokens = 4

    def __init__(self, most=100):
        self.batches, self.most = [], most
        self.free = threading.Event()
        self.free.set()

    def run(self, pixels, asked, seeds, on_text=None):
        self.free.wait(10)
        self.batches.append((len(pixels), asked))
        if len(pixels) > self.most:
            raise RuntimeError("CUDA out of memory")
        if any(int(image.max()) == 9 for image in pixels):
            raise ValueError("a bad one")
        pairs = zip(pixels, seeds, strict=True)
        said = [[Said(f"{int(image.max())} {seed}", 2, True) for seed in own] for image, own in pairs]
        if on_text is not None:
            for image, own in enumerate(said):
                for caption, one in enumerate(own):
                    for letter in one.text:
                        on_text(image, caption, letter)
        return said


def run(engine, work, **settings):
    async def main():
        batcher = Batcher(engine, **{"batch_size": 4, "wait": 0.05, "limit": 10, **settings})
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            engine.free.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(main())


def image(value):
    return PIXELS + value


def test_requests_that_wait_share_a_batch_if_they_are_alike():
    engine = FakeEngine()

    async def work(batcher):
        asked = [Asked(), Asked(), Asked(temperature=1.0), Asked(), Asked(), Asked()]
        engine.free.clear()  # until all of them wait
        asyncio.get_running_loop().call_later(0.1, engine.free.set)
        tickets = [batcher.submit(image(value), one, [value]) for value, one in enumerate(asked)]
        return [(await ticket.result)[0].text for ticket in tickets]

    assert run(engine, work) == [f"{value} {value}" for value in range(6)], "each has its own answer"
    assert sorted(size for size, _ in engine.batches) == [1, 1, 4]
    assert [asked.temperature for size, asked in engine.batches if size == 1].count(1.0) == 1


def test_a_batch_that_fails_is_tried_one_by_one():
    engine = FakeEngine(most=2)

    async def work(batcher):
        tickets = [batcher.submit(image(value), Asked(), [0]) for value in (1, 9, 3)]
        return await asyncio.gather(*(ticket.result for ticket in tickets), return_exceptions=True)

    one, bad, three = run(engine, work)
    assert (one[0].text, three[0].text) == ("1 0", "3 0")
    assert str(bad) == "a bad one"


def test_more_than_the_limit_are_refused_and_those_given_up_never_run():
    engine = FakeEngine()
    engine.free.clear()

    async def work(batcher):
        first = batcher.submit(image(1), Asked(), [0])
        while batcher.load != 1 or batcher._waiting:  # until it is worked on
            await asyncio.sleep(0.01)
        waiting = [batcher.submit(image(value), Asked(), [0]) for value in (2, 3)]
        with pytest.raises(QueueFullError):
            batcher.submit(image(4), Asked(), [0])
        waiting[0].given_up.set()
        engine.free.set()
        return (await first.result)[0].text, (await waiting[1].result)[0].text

    assert run(engine, work, limit=3) == ("1 0", "3 0")
    assert [size for size, _ in engine.batches] == [1, 1]


def test_text_comes_in_parts_and_ends():
    async def work(batcher):
        streamed = batcher.submit(image(7), Asked(count=2), [1, 2], stream=True)
        quiet = batcher.submit(image(8), Asked(count=2), [3, 4])
        parts = {0: "", 1: ""}
        while (part := await streamed.parts.get()) is not None:
            parts[part[0]] += part[1]
        return parts, [said.text for said in await quiet.result]

    assert run(FakeEngine(), work) == ({0: "7 1", 1: "7 2"}, ["8 3", "8 4"])


def test_closing_finishes_what_was_taken():
    engine = FakeEngine()
    engine.free.clear()

    async def main():
        batcher = Batcher(engine, 1, 0.0, 10)
        tickets = [batcher.submit(image(value), Asked(), [0]) for value in range(3)]
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(ClosedError):
            batcher.submit(image(4), Asked(), [0])
        engine.free.set()
        found = [(await ticket.result)[0].text for ticket in tickets]
        await closing
        return found

    assert asyncio.run(main()) == ["0 0", "1 0", "2 0"]
