"""What is done to each part of a shard: laid out, run on the device, fetched, made anew where it must be, and written.

While one part runs on the device, the next is read and laid out, and those before it are fetched and written: one at a
time, or with vectors of residues, which take long to encode, one in each of several threads.
"""

import gc
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from embedome.common.json_files import json_sha256
from embedome.common.parallel import ahead, map_in_order, process_pool, threads
from embedome.common.terms import NON_FINITE
from embedome.embedding.metrics import DEVICE, READING, WRITING, Clock
from embedome.embedding.parts import EmbeddedPart, Part, is_written, part_entry, write
from embedome.embedding.settings import EmbedSettings
from embedome.engine.batch_layout import BatchLayout, lay_out
from embedome.engine.device import room_for
from embedome.engine.engine import Embedded, Engine, Running
from embedome.engine.windows import Sequences
from embedome.models.directory import Model, empty_model, load_model

log = logging.getLogger(__name__)


# Writers at most where nobody says how many: each takes the memory of a part.
MOST_WRITERS = 8
# What to do where memory runs out.
LARGER_DEVICE = "run again on a device with more memory; finished parts are kept"
SMALLER_PARTS = f"{LARGER_DEVICE}. Or lower embed.part_sequences, which cuts all parts anew"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how parts are run: what does not change the numbers.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda``.
    attempt : int
        As in `engine.Engine`.
    workers : int
        Processes that embed one part each.
    writers : int
        Threads that fetch and write one part each, where vectors of residues are written.
    """

    device: str = "cpu"
    attempt: int = 1
    workers: int = 1
    writers: int = 1

    @classmethod
    def of_job(cls, resources: Mapping[str, Any], threads: int = 1) -> "Machine":
        """The machine of a job: a GPU where it asked for one, by ``gpu`` or ``gres``, and a writer in each thread.

        The variable EMBEDOME_DEVICE says otherwise, for trying out a cluster without GPUs.
        """
        device = "cuda" if resources.get("gpu") or "gpu" in str(resources.get("gres", "")) else "cpu"
        if chosen := os.environ.get("EMBEDOME_DEVICE"):
            log.warning("EMBEDOME_DEVICE is set: running on %s, not on %s", chosen, device)
            device = chosen
        elif device == "cpu" and torch.cuda.is_available():
            log.warning("there is a GPU, but this job did not ask for one; see docs/cluster.md, One machine with a GPU")
        return cls(device, resources.get("attempt", 1), writers=threads)


@dataclass(frozen=True, slots=True)
class PartPipeline:
    """What is done to each part.

    Parameters
    ----------
    model : str
        Model directory.
    settings : EmbedSettings
    machine : Machine
    clock : Clock
    """

    model: str
    settings: EmbedSettings
    machine: Machine
    clock: Clock

    def run(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Embed parts, here or in processes; their lines in the manifest, in order, few parts in memory at a time."""
        if self.machine.workers == 1:
            yield from self.run_here(parts)
            return
        with process_pool(self.machine.workers, __name__) as pool:
            job = PartTask(self.model, self.settings, replace(self.machine, workers=1))
            yield from map_in_order(pool, job, self.clock.items(READING, parts), self.machine.workers + 1)

    def run_here(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Embed parts one after the other: one is laid out ahead, one run, and each writer fetches and writes one.

        What is made anew is so by this thread, which a signal interrupts. Vectors are in memory of one part more than
        there are writers.
        """
        writers = self.machine.writers if self.settings.per_residue else 1
        with threads(1) as reader, threads(writers) as pool:
            laid_out = ahead(reader, self.clock.items(READING, map(self.lay_out, parts)))
            running = (self.run_part(*each) for each in laid_out)
            for outcome in map_in_order(pool, self.finish, running, writers + 1):
                yield self.complete(*outcome)

    def lay_out(self, part: Part) -> tuple[Part, BatchLayout | None]:
        """Lay a part's sequences out, unless it is written already."""
        if is_written(part):
            log.info("%s is there already", part.path.name)
            return part, None
        model = load_empty_model(self.model, json_sha256(part.provenance["model"]), self.settings.features)
        policy = self.settings.policy
        with room_for_part(part):
            sequences = Sequences.join([record.sequence for record in part.records])
            return part, lay_out(sequences, model.tokenizer, policy, policy.longest(model.max_residues))

    def run_part(self, part: Part, layout: BatchLayout | None) -> tuple[Part, Running | None]:
        """Run a part. Batches that do not fit are made smaller; what all have in common must fit."""
        if layout is None:
            return part, None
        with room_for("the model", LARGER_DEVICE):
            engine = self.engine(part)
        with self.clock.time(DEVICE), room_for_part(part):
            return part, engine.run(layout)

    def finish(self, task: tuple[Part, Running | None]) -> tuple[Part, Embedded | None, dict[str, Any] | None]:
        """Fetch a part's vectors and write it; where some of them are to be made anew, leave it unfinished."""
        part, running = task
        if running is None:
            return part, None, self.store(part, None)
        with self.clock.time(DEVICE), room_for_part(part):
            embedded = self.engine(part).finish(running)
        self.clock.count(int(embedded.used[~embedded.skipped].sum()), embedded.operations)
        if self.settings.dtype != "float32" and (embedded.state == NON_FINITE).any():
            return part, embedded, None
        return part, None, self.store(part, EmbeddedPart(embedded, []))

    def complete(self, part: Part, unfinished: Embedded | None, entry: dict[str, Any] | None) -> dict[str, Any]:
        """The line of what `finish` gave; an unfinished part is made anew where it must be, and written."""
        return self.store(part, self.recompute(part, unfinished)) if unfinished else entry

    def recompute(self, part: Part, embedded: Embedded) -> EmbeddedPart:
        """Embed in float32 what came out not finite in a narrower type."""
        broken = np.flatnonzero(embedded.state == NON_FINITE)
        log.warning("%d vectors are not finite in %s and are made in float32", len(broken), self.settings.dtype)
        with room_for("the model in float32, beside the one that is there,", LARGER_DEVICE):
            engine = self.engine(part, replace(self.settings, dtype="float32"))
        chosen = [part.records[index] for index in broken]
        with self.clock.time(DEVICE), room_for_part(part):
            mended = engine.embed(Sequences.join([record.sequence for record in chosen]))
        for name, vectors in embedded.vectors.items():
            vectors[broken] = mended.vectors[name]
        embedded.state[broken], embedded.skipped[broken] = mended.state, mended.skipped
        for position, index in enumerate(broken if embedded.residues is not None else []):
            embedded.residues[index] = mended.residues[position]
        return EmbeddedPart(
            embedded, [record.id for record, lost in zip(chosen, mended.skipped, strict=True) if not lost]
        )

    def store(self, part: Part, result: EmbeddedPart | None) -> dict[str, Any]:
        """Write a part, if it is not there, and give its line in the manifest."""
        with self.clock.time(WRITING):
            if result:
                write(part, result)
            return part_entry(part)

    def engine(self, part: Part, settings: EmbedSettings | None = None) -> Engine:
        """The engine, which is loaded where it is needed for the first time."""
        identity = json_sha256(part.provenance["model"])
        return load_engine(self.model, identity, settings or self.settings, self.machine)


def room_for_part(part: Part) -> AbstractContextManager[None]:
    """Where memory runs out for a part, say so."""
    return room_for(f"{part.path.name} with its {len(part.records):,} sequences", SMALLER_PARTS)


@dataclass(frozen=True, slots=True)
class PartTask:
    """`Work` on one part in a process of its own."""

    model: str
    settings: EmbedSettings
    machine: Machine

    def __call__(self, part: Part) -> dict[str, Any]:
        """Embed and write a part; give its line in the manifest."""
        work = PartPipeline(self.model, self.settings, self.machine, Clock())
        return work.complete(*work.finish(work.run_part(*work.lay_out(part))))


@cache
def load_empty_model(model: str, identity: str, features: str) -> Model:
    """What sequences are laid out by, which needs no weights: the model's vocabulary and positions."""
    return empty_model(model, features)


@cache
def load_engine(model: str, identity: str, settings: EmbedSettings, machine: Machine) -> Engine:
    """Load the model once per process, and again where the directory's `identity` has changed.

    The garbage collector then leaves alone what is loaded: each part's records would have it look through all of that
    for cycles several times over, for a sixth of the time beside the model.
    """
    engine = build_engine(model, settings, machine)
    gc.freeze()
    return engine


def build_engine(model: str, settings: EmbedSettings, machine: Machine) -> Engine:
    """An engine with the settings."""
    return Engine(
        load_model(model, settings.features),
        device=machine.device,
        dtype=settings.dtype,
        policy=settings.policy,
        layer=settings.layer,
        poolings=settings.pooling,
        per_residue=settings.per_residue,
        fused=settings.fused,
        attempt=machine.attempt,
    )
