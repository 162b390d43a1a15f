"""The shard files under way: compressed, and ended in the background."""

import io
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from isal import igzip

from embedome.common.atomic_files import atomic_path
from embedome.common.terms import SPLITS

COMPRESSION_LEVEL = 1
BLOCK_BYTES = 1 << 18
# Files that wait for the disk at once.
MAX_ENDING = 4


def shard_name(index: int) -> str:
    """Name of a shard within its split: five digits."""
    return f"{index:05d}"


class BlockWriter:
    """Passes text on in blocks of one size, as the compressor's output depends on their sizes."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self.stream = stream
        self.held = bytearray()

    def write(self, text: memoryview) -> None:
        """Add text."""
        self.held += text
        whole = len(self.held) - len(self.held) % BLOCK_BYTES
        for start in range(0, whole, BLOCK_BYTES):
            self.stream.write(self.held[start : start + BLOCK_BYTES])
        del self.held[:whole]

    def end(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Pass the rest on, unless there was an exception."""
        if kind is None:
            self.stream.write(self.held)


class ShardFiles:
    """The shard files under way: one open file per split, as ids and so shards come in order.

    Files are ended in the background: a disk takes milliseconds to confirm each.
    """

    def __init__(self, folder: Path, n_shards: Mapping[str, int], pool: Executor) -> None:
        self.folder, self.n_shards, self.pool = folder, n_shards, pool
        self.ending: deque[Future[None]] = deque()
        self.next_shard = dict.fromkeys(SPLITS, 0)
        self.open: dict[str, tuple[ExitStack, BlockWriter]] = {}

    def writer(self, code: int, shard: int) -> "BlockWriter":
        """Return the stream of a shard; end the one before it and write empty ones in between."""
        split = SPLITS[code]
        while self.next_shard[split] <= shard:
            self.advance(split)
        return self.open[split][1]

    def advance(self, split: str) -> None:
        """End a split's file under way and begin the next one."""
        self.end(split)
        name = f"{shard_name(self.next_shard[split])}.fasta.gz"
        with ExitStack() as stack:
            path = stack.enter_context(atomic_path(self.folder / split / name))
            raw = stack.enter_context(path.open("wb"))
            # No time and no name in the header: the same sequences make the same bytes.
            stream = stack.enter_context(igzip.IGzipFile("", "wb", COMPRESSION_LEVEL, raw, mtime=0))
            writer = BlockWriter(stream)
            stack.push(writer.end)
            self.open[split] = (stack.pop_all(), writer)
        self.next_shard[split] += 1

    def end(self, split: str) -> None:
        """End a split's file under way, if any, as soon as not too many others are."""
        if split in self.open:
            while len(self.ending) >= MAX_ENDING:
                self.ending.popleft().result()
            self.ending.append(self.pool.submit(self.open.pop(split)[0].close))

    def finish(self) -> None:
        """End all files, and write the empty ones that are left."""
        for split in SPLITS:
            while self.next_shard[split] < self.n_shards[split]:
                self.advance(split)
            self.end(split)
        for ended in self.ending:
            ended.result()

    def discard(self, *exception: Any) -> None:
        """Close the files under way, each of them whatever becomes of the others, and publish none."""
        under_way = ExitStack()
        for stack, _ in self.open.values():
            under_way.push(stack)
        under_way.__exit__(*exception)


@contextmanager
def shard_files(folder: Path, n_shards: Mapping[str, int]) -> Iterator[ShardFiles]:
    """Yield `ShardFiles` to write to; after an exception what was not finished is removed."""
    with ThreadPoolExecutor(MAX_ENDING) as pool, ExitStack() as stack:
        files = ShardFiles(folder, n_shards, pool)
        stack.push(files.discard)
        yield files
        files.finish()
