"""Batches, gathered by index from memory or decoded ahead by Grain's workers; both are functions of the step alone.

The batch of step s does not depend on the first step of the iteration, nor on the number of processes that share it or
of workers that decode it. A batch always has "index", the position that determines per-example noise.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import flags

from genimg_jax.data import order
from genimg_jax.data.types import Source
from genimg_jax.errors import DataError, Failure

Batch = dict[str, np.ndarray]
Read = Callable[[np.ndarray], Batch]
Domains = dict[str, tuple[Read, int]]  # domain ("": the images) -> (reader, number of examples)
ALL_ROWS = slice(None)


def train_batches(
    source: Source, seed: int | Sequence[int], start_step: int, batch_size: int, rows: slice = ALL_ROWS
) -> Iterator[Batch]:
    """The endless batches of steps `start_step`, `start_step` + 1, ...

    Step s takes positions s * batch_size, ..., (s + 1) * batch_size - 1 of the training order: no example occurs twice
    in an epoch, and each epoch has another order. `batch_size` is global; `rows` are those of this process, and "index"
    i32 is their position in the global batch. For several seeds the batches are stacked: [seeds, B, ...]. Fields that
    are not paired with images have their own order and their own epochs. Raises DataError if the source has fewer
    examples than a batch. Closing the iterator stops its workers.
    """
    if batch_size > source.size:
        raise DataError(f"A batch of {batch_size} needs more than the {source.size} examples there are: "
                        "lower the batch size or use more data.")  # fmt: skip
    make = functools.partial(_train_batch, _domains(source), seed, batch_size, rows)
    return _batches(source, make, start_step, sys.maxsize)


def evaluation_batches(source: Source, batch_size: int, rows: slice = ALL_ROWS) -> Iterator[Batch]:
    """One pass over all examples in their order.

    "index" i32 is the position in the dataset. "valid" bool is False for the rows that pad the last batch, which repeat
    the last example.
    """
    steps = -(-source.size // batch_size)
    make = functools.partial(_evaluation_batch, _domains(source), batch_size, rows)
    return _batches(source, make, 0, steps)


def rows(source: Source, indices: np.ndarray) -> Batch:  # i64[B] -> {name: [B, ...]}
    """Examples with all their fields; fields that are not paired with images have example i modulo their number."""
    return _rows(_domains(source), lambda domain, size: indices % size)


def _domains(source: Source) -> Domains:
    return {name: (domain.read, domain.size) for name, domain in {"": source, **source.domains}.items()}


def _rows(domains: Domains, choose: Callable[[str, int], np.ndarray]) -> Batch:
    """The examples of every domain at the indices i64[B] that `choose(name, size)` returns."""  # -> {name: [B, ...]}
    batch = {}
    for name, (read, size) in domains.items():
        examples = read(choose(name, size))
        batch |= {name: examples["image"]} if name else examples
    return batch


def _train_batch(domains: Domains, seed: int | Sequence[int], batch_size: int, rows: slice, step: int) -> Batch:
    index = np.arange(batch_size)[rows]
    positions = step * batch_size + index
    if isinstance(seed, Sequence):
        batch = _rows(
            domains, lambda name, size: np.concatenate([order.examples(s, positions, size, name) for s in seed])
        )
        shape = (len(seed), len(index))
        batch = {name: x.reshape(*shape, *x.shape[1:]) for name, x in batch.items()}
        index = np.broadcast_to(index, shape)
    else:
        batch = _rows(domains, lambda name, size: order.examples(seed, positions, size, name))
    return {**batch, "index": index.astype(np.int32)}


def _evaluation_batch(domains: Domains, batch_size: int, rows: slice, step: int) -> Batch:
    positions = step * batch_size + np.arange(batch_size)[rows]
    size = domains[""][1]
    index = np.minimum(positions, size - 1)
    batch = _rows(domains, lambda _, size: index % size)
    return {**batch, "index": index.astype(np.int32), "valid": positions < size}


def _batches(source: Source, make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    if source.in_memory:
        return map(make, itertools.islice(itertools.count(start), stop - start))
    return _streamed(make, start, stop, source.workers)


def _streamed(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Whole batches are Grain's elements: workers take turns, so their number changes only the speed."""
    import grain  # imported here: sources in memory do not need it, and its import is slow

    if not flags.FLAGS.is_parsed():  # Grain reads its absl flags, which are parsed only in absl.app
        flags.FLAGS.mark_as_parsed()
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1) if workers else grain.ReadOptions(4, 4)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    steps = grain.MapDataset.range(start, stop).map(functools.partial(_with_step, make))
    iterator = iter(steps.to_iter_dataset(threads).mp_prefetch(processes))
    step = start
    try:
        for batch in iterator:
            yield {name: np.array(array) for name, array in batch.items()}  # a copy, to release shared memory at once
            step += 1
    except RuntimeError as error:  # how Grain reports a process that was killed
        raise DataError(f"A decoding worker died before the batch of step {step}: {error}") from error
    finally:
        iterator.close()


def _with_step(make: Callable[[int], Batch], step: int) -> Batch:
    try:
        return make(step)
    except Failure:
        raise
    except Exception as error:
        raise DataError(f"The batch of step {step} could not be read: {type(error).__name__}: {error}") from error
