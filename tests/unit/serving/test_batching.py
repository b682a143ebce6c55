import asyncio
import gc
import threading
import time
import weakref

import pytest
import torch

from vlv.serving.batching import Asked, Batcher, ClosedError, QueueFullError, Said

PIXELS = torch.zeros(3, 2, 2, dtype=torch.uint8)


class FakeEngine:
    """Says its batch's size; may be held, and fails on batches that are too large or on images of value 9."""

    prompt_tokens, max_new_tokens = 4, 50

    def __init__(self, most=100):
        self.batches, self.most = [], most
        self.free = threading.Event()
        self.free.set()

    def run(self, pixels, asked, seeds, on_text=None, is_over=None):
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


class Fails(FakeEngine):
    """Fails with several images, in the middle of streaming where `says_first`; looks whether what it held is gone."""

    def __init__(self, says_first):
        super().__init__()
        self.says_first, self.held, self.was_freed = says_first, None, None

    def run(self, pixels, asked, seeds, on_text=None, is_over=None):
        if len(pixels) == 1:
            if self.was_freed is None:
                gc.collect()
                self.was_freed = self.held() is None
            return super().run(pixels, asked, seeds, on_text, is_over)
        activations = torch.zeros(10)
        self.held = weakref.ref(activations)
        if self.says_first:
            on_text(0, 0, "a part")
        raise RuntimeError("CUDA out of memory")


async def streamed(ticket):
    """What came, and how it ended."""
    parts = []
    while (part := await ticket.parts.get()) is not None:
        parts.append(part[1])
    (result,) = await asyncio.gather(ticket.result, return_exceptions=True)
    return "".join(parts), result


@pytest.mark.parametrize("says_first", [False, True])
def test_of_a_batch_that_fails_only_a_stream_that_has_begun_is_lost(says_first):
    engine = Fails(says_first)

    async def work(batcher):
        streams = [batcher.submit(image(value), Asked(), [0], stream=True) for value in (1, 2)]
        quiet = batcher.submit(image(3), Asked(), [0])
        return [await streamed(ticket) for ticket in streams], (await quiet.result)[0].text

    ((begun, result), other), quiet = run(engine, work)
    assert other == ("2 0", [Said("2 0", 2, True)])
    assert quiet == "3 0"
    if says_first:
        assert begun == "a part", "it is not said again behind what was said"
        assert isinstance(result, RuntimeError)
    else:
        assert begun == "1 0"
    assert engine.was_freed, "what filled the memory is gone before it is tried again"


class Endless(FakeEngine):
    """Goes on until every image is over."""

    def run(self, pixels, asked, seeds, on_text=None, is_over=None):
        until = time.monotonic() + 10
        while is_over is None or not all(map(is_over, range(len(pixels)))):
            assert time.monotonic() < until, "nobody ended it"
            time.sleep(0.01)
        return super().run(pixels, asked, seeds, on_text, is_over)


def test_a_batch_ends_once_each_of_it_is_given_up_or_late():
    engine = Endless()

    async def work(batcher):
        late = batcher.submit(image(1), Asked(), [0], deadline=time.monotonic() + 0.3)
        given_up = batcher.submit(image(2), Asked(), [0])
        await asyncio.sleep(0.5)
        assert not late.result.done(), "the other one is still waited for"
        given_up.given_up.set()
        tickets = (late, given_up, batcher.submit(image(3), Asked(), [0], deadline=time.monotonic()))
        return await asyncio.gather(*(ticket.result for ticket in tickets), return_exceptions=True)

    assert [type(result) for result in run(engine, work)] == [TimeoutError] * 3, "what was cut off is no caption"
    assert [size for size, _ in engine.batches] == [2], "who is late before its batch begins has none"


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
