"""The decoding thread: many event-loop callers, one model."""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from workers.training.integrations.verl.hf.decoder import Decoder, Row
from workers.training.integrations.verl.hf.sampling import SamplingParams

GATHER_SECONDS = 0.004
"""How long an idle engine waits for company after a request: a step's requests start as a
burst, and one shared prefill is cheaper than twelve."""


class WeightMismatch(Exception):
    """A pushed set of weights does not cover the served model, or names what it lacks."""


@dataclass(frozen=True, slots=True)
class Sampled:
    token_ids: list[int]
    logprobs: list[float]
    version: int


@dataclass(eq=False, slots=True)
class _Job:
    run: Callable[[], None] | None
    row: Row | None
    future: "asyncio.Future[Sampled]"
    loop: asyncio.AbstractEventLoop


class Engine:
    """``start`` and ``stop`` bracket its life. Weights change between steps, never inside."""

    def __init__(self, model: PreTrainedModel, stop_ids: frozenset[int], pad_id: int) -> None:
        self._model = model
        self._decoder = Decoder(model, stop_ids, pad_id)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: dict[Row, _Job] = {}
        self._version = 0
        self._thread = threading.Thread(target=self._serve, name="decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    async def generate(self, prompt_ids: list[int], params: SamplingParams) -> Sampled:
        if not prompt_ids or params.max_tokens < 1:
            raise ValueError("generation needs a prompt and room for one token")
        return await self._ask(None, Row(prompt_ids, params))

    async def load(self, state: Mapping[str, torch.Tensor], version: int) -> int:
        """Replaces all weights; returns how many tensors were applied."""
        applied: list[int] = []

        def run() -> None:
            applied.append(apply_weights(self._model, state))
            self._version = version

        await self._ask(run, None)
        return applied[0]

    async def _ask(self, run: Callable[[], None] | None, row: Row | None) -> Sampled:
        loop = asyncio.get_running_loop()
        job = _Job(run, row, loop.create_future(), loop)
        self._jobs.put(job)
        return await job.future

    def _serve(self) -> None:
        while True:
            arrived = self._arrivals()
            if arrived is None:
                return
            try:
                self._turn(arrived)
            except Exception as error:  # noqa: BLE001 - loop boundary: callers get the error
                self._fail(arrived, error)

    def _turn(self, arrived: list[_Job]) -> None:
        for job in arrived:
            if job.run is not None:
                job.run()
                _resolve(job, Sampled([], [], self._version))
        new = {job.row: job for job in arrived if job.row is not None}
        self._running.update(new)
        done = self._decoder.admit(list(new)) if new else []
        if self._decoder.busy:
            done += self._decoder.step()
        for row in done:
            sampled = Sampled(row.token_ids, row.logprobs, self._version)
            _resolve(self._running.pop(row), sampled)

    def _arrivals(self) -> list[_Job] | None:
        """What has come in; blocks only while there is nothing to decode."""
        found: list[_Job] = []
        wait: float | None = None
        while True:
            try:
                job = self._jobs.get(block=not self._decoder.busy, timeout=wait)
            except queue.Empty:
                return found
            if job is None:
                return None
            found.append(job)
            wait = GATHER_SECONDS

    def _fail(self, arrived: list[_Job], error: Exception) -> None:
        jobs = {id(job): job for job in (*arrived, *self._running.values())}
        self._running.clear()
        self._decoder.clear()
        for job in jobs.values():
            _resolve(job, error)


def apply_weights(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> int:
    """Copies by name. Raises ``WeightMismatch`` unless every parameter of the model is met.

    A tied output layer is pushed under its own name and exists here only as its twin.
    """
    own = dict(model.named_parameters())
    aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(own)
    buffers = {name for name, _ in model.named_buffers()}
    unknown = set(state) - set(own) - aliases - buffers
    missing = set(own) - set(state)
    if unknown or missing:
        raise WeightMismatch(
            f"weights do not fit the served model: missing {sorted(missing)[:3]} "
            f"({len(missing)}), unknown {sorted(unknown)[:3]} ({len(unknown)})"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    return len(own)


def _resolve(job: _Job, result: Sampled | Exception) -> None:
    def tell() -> None:
        if job.future.done():
            return
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)

    job.loop.call_soon_threadsafe(tell)
