"""Replay of a loader after a resume: the batches that come next are those that an undisturbed run would have read."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ununennium.errors import CheckpointError
from ununennium.training import distributed
from ununennium.training.generators import generator_state, generators_of, set_generator_state
from ununennium.training.loading import IndexOrder, prepare_samplers, samplers_of
from ununennium.training.state import random_state, set_random_state

_ORDER = ("seed", "shuffle", "replacement", "num_samples")
"""Attributes of torch's samplers that decide the order, or how long it is."""
_AS_BEFORE = "resume with it as it was, or from a checkpoint written at the end of an epoch"


class ReplayableLoader:
    """A loader, and what is needed to go on with its order in another process.

    The order of an epoch is a function of the states of the generators at the epoch's start: the global ones, and those
    that the loader, its samplers and its dataset hold as attributes. A resume within an epoch restores these, reads
    the consumed batches again and drops them (a sampler with ``set_start`` leaves them out).

    Args:
        loader: any iterable of batches, or None.
        name: the Trainer's argument, for messages.
    """

    def __init__(self, loader: Any, name: str) -> None:
        self.loader = loader
        self.name = name
        self._start: dict[str, Any] = {}
        self._draws_base_seed: bool | None = True
        is_torchs = isinstance(loader, DataLoader)
        self._is_persistent = is_torchs and loader.persistent_workers and loader.num_workers > 0
        self._before = (0, 0)
        """Samples and batches of the running epoch that were consumed in batches of another size."""
        self._is_ahead_otherwise = False
        """True where a lazy sampler was drawn from further ahead, or less far, than it is here at the same batch."""
        self._watched = [type(each).__name__ for each in samplers_of(loader) if is_torchs and _must_be_watched(each)]
        self._order = IndexOrder(getattr(loader, self._index_sampler)) if is_torchs else None

    # ------------------------------------------------------------------ reading

    def epoch(self, epoch: int, batches_done: int) -> Iterator[Any]:
        """The batches of training epoch ``epoch`` (from 0) that come after the first ``batches_done``.

        Raises:
            CheckpointError: the batches that come first now are not those that were consumed.
        """
        now = self._random_state()
        if batches_done:
            self._set_random_state(self._start)
            self._load_samplers(self._start)
        else:
            self._start = {**now, "samplers": self._sampler_states()}
            self._before = (0, 0)
        samples_before, batches_before = self._before
        own = batches_done - batches_before
        starts_there = prepare_samplers(self.loader, epoch, samples_before + own * self._batch_size)
        digest = None if self._order is None else self._order.digest(batches_done)
        batches = self.iterate(epoch, replay=batches_done > 0, skip=0 if starts_there else samples_before)
        for _ in range(0 if starts_there else own):
            next(batches, None)
        if batches_done:
            self._check_order(digest, batches_done)
            set_random_state(now["global"])
            if not self._is_ahead_otherwise:
                self._set_generators(now["generators"])
        self._is_ahead_otherwise = False
        return batches

    def iterate(self, epoch: int, *, replay: bool = False, skip: int = 0) -> Iterator[Any]:
        """An iterator over all batches, with the draws from the generators that an undisturbed run makes in ``epoch``.

        The first ``skip`` samples are left out.

        Persistent workers are started, and draw a seed, in the first epoch alone. A resumed run starts them later:
        with ``replay`` as this epoch did it, else, past the first epoch, without moving any generator.
        """
        loader = self.loader
        if self._is_persistent:
            if not replay:
                self._draws_base_seed = epoch == 0 and loader._iterator is None
            elif self._draws_base_seed is None:
                self._draws_base_seed = epoch == 0
            if self._draws_base_seed:
                loader._iterator = None
            elif loader._iterator is None:
                before = self._random_state()
                self._iterator(skip)
                self._set_random_state(before)
        return self._iterator(skip)

    def _iterator(self, skip: int) -> Iterator[Any]:
        """``iter(loader)``, over recorded indices where they are watched or samples are skipped."""
        order = self._order
        if order is None or not (self._watched or skip):
            return iter(self.loader)
        held = vars(self.loader)  # a DataLoader refuses to have its samplers set
        try:
            order.skip, held[self._index_sampler] = skip, order
            batches: Iterator[Any] = iter(self.loader)
            order.leave_out()
            return batches
        finally:
            order.skip, held[self._index_sampler] = 0, order.sampler

    @property
    def _batch_size(self) -> int:
        """Samples in a batch; 0 if they are not known to be equally large."""
        sizes = [getattr(part, "batch_size", 0) for part in (self.loader, getattr(self.loader, "batch_sampler", None))]
        return next((size for size in sizes if isinstance(size, int) and size), 0)

    @property
    def _ahead(self) -> int:
        """Batches that workers may read ahead."""
        workers: int = getattr(self.loader, "num_workers", 0)
        return workers * (getattr(self.loader, "prefetch_factor", None) or 0)

    @property
    def _index_sampler(self) -> str:
        return "sampler" if self.loader.batch_sampler is None else "batch_sampler"

    def steps_left(self, epochs: int, batches_done: int, window: int) -> int | None:
        """Optimizer steps that are left of ``epochs`` epochs, one of them begun; None if the length is not known."""
        try:
            whole = len(self.loader)
        except (TypeError, NotImplementedError):
            return None
        samples, batches = self._before if batches_done else (0, 0)
        rest = whole - batches_done
        if samples and self._order is not None:
            share = (len(self._order.sampler.sampler) - samples) / self._batch_size
            rest = (math.floor if self.loader.drop_last else math.ceil)(share) - (batches_done - batches)
        return math.ceil(max(rest, 0) / window) + (epochs - 1) * math.ceil(whole / window) if epochs > 0 else 0

    # ------------------------------------------------------------------ state

    def state_dict(self, batches_done: int) -> dict[str, Any]:
        """This rank's state, for a checkpoint after ``batches_done`` batches of the running epoch."""
        return {
            "start": {key: value for key, value in self._start.items() if key != "global"},
            "now": {"generators": self._generator_states(), "samplers": self._sampler_states()},
            "draws_base_seed": self._draws_base_seed,
            "layout": self._layout(),
            "order": self._order.digest(batches_done) if self._order is not None and self._watched else None,
            "before": list(self._before),
            "ahead": self._ahead,
        }

    @property
    def start_random_state(self) -> dict[str, Any]:
        """The global generators' states at the start of the running epoch; empty before the first."""
        return dict(self._start.get("global", {}))

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave all generators, global ones and those of the loader, as they were before the block."""
        before = self._random_state()
        try:
            yield
        finally:
            self._set_random_state(before)

    def load_state_dict(self, state: dict[str, Any] | None, start: dict[str, Any], batches_done: int) -> None:
        """Take over ``state_dict()``.

        Generators that the state does not know stay as they are, with a warning.

        Args:
            state: None of a checkpoint of an earlier version.
            start: the global generators' states at the start of the epoch.
            batches_done: of the running epoch.
        """
        generators = generators_of(self.loader)
        if state is None:
            if generators:
                self._warn(f"the checkpoint does not hold the state of {_list(generators)}: the order starts afresh")
            self._start, self._draws_base_seed = {"global": start}, None
            return
        self._start = {"global": start, **state["start"]}
        self._draws_base_seed = state["draws_base_seed"]
        now = state["now"]
        unknown = generators.keys() ^ now["generators"].keys()
        if unknown:
            self._warn(f"{_list(unknown)} is not in both the checkpoint and the loader: it starts afresh, or is unused")
        self._set_generators(now["generators"])
        self._load_samplers(now)
        if self._order is not None:
            self._order.expected = state["order"]
        samples, batches = state["before"]
        size = state["layout"].get("batch size", 0)
        is_rebatched = batches_done > 0 and size != self._batch_size
        self._is_ahead_otherwise = is_rebatched or state.get("ahead", self._ahead) != self._ahead
        if is_rebatched:
            samples, batches = samples + (batches_done - batches) * size, batches_done
        self._before = (samples, batches)
        if self._is_persistent and samples:
            self.loader._iterator = None  # started without the means to skip samples
        if self._is_persistent and not self._draws_base_seed and not self._is_indexed:
            self._warn(
                "has persistent workers: the order is restored, but not the state of their generators; let what the "
                "dataset draws at random be a function of seed, epoch and index, or leave persistent_workers off"
            )

    def problem(self, state: dict[str, Any] | None, batches_done: int) -> str | None:
        """Reason for which the rest of an epoch cannot be what an undisturbed run would read; None if there is none."""
        if not batches_done or state is None:
            return None
        before, now = state["layout"], self._layout()
        changed = [
            f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not (key == "batch size" and self._can_skip_samples)
        ]
        if not state["draws_base_seed"] and not self._is_persistent:
            changed.append("its workers were persistent and are not")
        if changed:
            what = "; ".join(changed)
            return f"{self.name} has changed since ({what}), so that samples would be skipped or repeated; {_AS_BEFORE}"
        if not self._keeps_order:
            return (
                f"{self.name} reads with in_order=False: nobody knows the samples that were consumed; resume from a "
                "checkpoint written at the end of an epoch, and leave in_order=True"
            )
        if self._watched and state["order"] is None:
            return f"the order of {self.name} was not recorded; resume from a checkpoint written at the end of an epoch"
        return None

    def warn_of_limits(self) -> None:
        """Warn, before training begins, of what a resume within an epoch cannot promise."""
        dataset = getattr(self.loader, "dataset", None)
        if isinstance(dataset, IterableDataset):
            self._warn(
                f"reads the IterableDataset {type(dataset).__name__}: a resume within an epoch reads its first batches "
                "again and drops them, which is exact if it gives the same batches in the same order each time"
            )
        elif unseeded := [type(each).__name__ for each in samplers_of(self.loader) if _is_unseeded(each)]:
            self._warn(
                f"has the sampler {', '.join(unseeded)} without set_epoch(), a generator or state_dict(): its order "
                "cannot be restored, so that a resume within an epoch is refused if it gives another one"
            )
        if not self._keeps_order:
            self._warn("reads with in_order=False: a resume within an epoch will be refused")

    # ------------------------------------------------------------------ parts

    @property
    def _can_skip_samples(self) -> bool:
        """Tell whether the epoch's order is one of samples, which may be batched anew."""
        loader = self.loader
        is_plain = self._order is not None and type(loader.batch_sampler) is BatchSampler and self._batch_size > 0
        return is_plain and not self._watched and not isinstance(loader.dataset, IterableDataset)

    @property
    def _is_indexed(self) -> bool:
        """Tell whether the project's own samplers are read, whose datasets draw by seed, epoch and index."""
        return any(hasattr(sampler, "set_start") for sampler in samplers_of(self.loader))

    @property
    def _keeps_order(self) -> bool:
        return bool(getattr(self.loader, "in_order", True)) or self.loader.num_workers < 2

    def _layout(self) -> dict[str, Any]:
        """Properties that must not change within an epoch."""
        loader, found = self.loader, dict[str, Any]()
        if self._batch_size:
            found["batch size"] = self._batch_size
        lengths = {"samples": getattr(loader, "dataset", None)}
        if not isinstance(loader, DataLoader) or "batch size" not in found:
            lengths["batches"] = loader
        for name, part in lengths.items():
            try:
                found[name] = len(part)  # type: ignore[arg-type]
            except (TypeError, NotImplementedError):
                continue
        for position, sampler in enumerate(samplers_of(loader), 1):
            values = ((key, getattr(sampler, key, None)) for key in _ORDER)
            chosen = ", ".join(f"{key}={value}" for key, value in values if isinstance(value, int))
            found[f"sampler {position}"] = f"{type(sampler).__name__}({chosen})"
        own = [path for path in generators_of(loader) if not path.startswith(("dataset", "collate_fn"))]
        if own:
            found["generators"] = ", ".join(sorted(own))
        return found

    def _check_order(self, expected: int | None, batches_done: int) -> None:
        """Compare the order that was replayed with the recorded one; all ranks raise if one differs."""
        record, problem = self._order, None
        if record is not None and self._watched:
            expected = record.expected if record.expected is not None else expected
            record.expected = None
            if expected is not None and record.digest(batches_done) != expected:
                problem = (
                    f"{self.name} gives other batches than the {batches_done} that were consumed of this epoch: the "
                    f"order of {', '.join(self._watched)} cannot be restored; give the sampler set_epoch() or a "
                    "generator, or resume from a checkpoint written at the end of an epoch"
                )
        problems = [each for each in distributed.gather(problem) if each is not None]
        if problems:
            raise CheckpointError(problems[0])

    def _random_state(self) -> dict[str, Any]:
        return {"global": random_state(), "generators": self._generator_states()}

    def _set_random_state(self, state: dict[str, Any]) -> None:
        set_random_state(state["global"])
        self._set_generators(state.get("generators", {}))

    def _generator_states(self) -> dict[str, Any]:
        return {path: generator_state(generator) for path, generator in generators_of(self.loader).items()}

    def _set_generators(self, states: dict[str, Any]) -> None:
        generators = generators_of(self.loader)
        for path in generators.keys() & states.keys():
            set_generator_state(generators[path], states[path])

    def _sampler_states(self) -> dict[str, Any]:
        samplers = samplers_of(self.loader)
        return {str(position): each.state_dict() for position, each in enumerate(samplers) if _has_state(each)}

    def _load_samplers(self, state: dict[str, Any]) -> None:
        samplers = samplers_of(self.loader)
        for position, each in state.get("samplers", {}).items():
            if int(position) < len(samplers) and _has_state(samplers[int(position)]):
                samplers[int(position)].load_state_dict(each)

    def _warn(self, text: str) -> None:
        if distributed.rank() == 0:
            warnings.warn(f"{self.name}: {text}", stacklevel=4)


def _has_state(sampler: Any) -> bool:
    return hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")


def _is_torchs(sampler: Any) -> bool:
    return type(sampler).__module__.startswith("torch.utils.data")


def _must_be_watched(sampler: Any) -> bool:
    """Tell whether ``sampler`` may give another order after a resume although all generators are restored."""
    is_fixed = isinstance(sampler, list | tuple | range | np.ndarray | torch.Tensor)
    tells = any(hasattr(sampler, name) for name in ("set_epoch", "set_start"))
    return not (_is_torchs(sampler) or is_fixed or tells or _has_state(sampler))


def _is_unseeded(sampler: Any) -> bool:
    """Tell whether no seed, generator or state of ``sampler`` is in reach: a batch sampler may have its sampler's."""
    if isinstance(sampler, BatchSampler) or getattr(sampler, "sampler", None) is not None:
        return False
    return _must_be_watched(sampler) and not generators_of(sampler)


def _list(names: Any) -> str:
    return ", ".join(itertools.islice(sorted(names), 8))
