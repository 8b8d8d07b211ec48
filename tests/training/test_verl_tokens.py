"""The token record of a rollout, with verl's own token builder and the real CPU engine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs the training environment (make test-training)")

from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl_world import make_model, make_tokenizer

from workers.training.core.policy import PolicyOutOfRoom, PolicyUnavailable
from workers.training.integrations.verl.hf.engine import Engine
from workers.training.integrations.verl.hf.server import Answer, sampling_of
from workers.training.integrations.verl.token_policy import Limits, VerlPolicy, derived_seed

ODD = "naïve 🦀 café\u0301 \u202ertl \x00 日本"
START = [{"role": "user", "content": f"write {ODD}"}]


@dataclass
class HfEngine:
    """verl's client in small: the engine, and what it was asked and answered."""

    engine: Engine
    calls: list[tuple[list[int], Any]] = field(default_factory=list)

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Answer:
        sampled = await self.engine.generate(prompt_ids, sampling_of(sampling_params, 8))
        answer = Answer(
            sampled.token_ids,
            sampled.logprobs,
            extra_fields={"global_steps": sampled.version, "min_global_steps": sampled.version},
        )
        self.calls.append((prompt_ids, answer))
        return answer


@dataclass
class ScriptedEngine:
    """Answers given token ids: for texts that random weights would never write."""

    answers: list[Any]

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def hf(tokenizer: Any) -> Iterator[Engine]:
    engine = Engine(make_model(tokenizer), frozenset({tokenizer.eos_token_id}), 0)
    engine.start()
    yield engine
    engine.stop()


def policy_of(tokenizer: Any, engine: Any, response_tokens: int = 400) -> VerlPolicy:
    return VerlPolicy(
        engine=engine,
        builder=create_continuous_token_builder(tokenizer, hf_model_type="qwen2"),
        tokenizer=tokenizer,
        limits=Limits(200, response_tokens),
        sampling={"temperature": 1.0, "top_p": 1.0, "top_k": -1},
        seed_of=lambda turn: derived_seed("test", turn),
        clock=lambda: 0.0,
    )


def said(tokenizer: Any, text: str, end: bool = True) -> Answer:
    ids = tokenizer.encode(text, add_special_tokens=False)
    ids += [tokenizer.eos_token_id] if end else []
    logprobs = [-0.5 - index for index in range(len(ids))]
    return Answer(ids, logprobs, extra_fields={"global_steps": 7, "min_global_steps": 7})


async def test_record_holds_exactly_the_ids_the_engine_sampled(tokenizer: Any, hf: Engine) -> None:
    engine = HfEngine(hf)
    policy = policy_of(tokenizer, engine)
    await policy.start(START, [])
    turn = await policy.turn(12)
    record = policy.record()
    (prompt, answer), *_ = engine.calls
    assert list(record.prompt_ids) == prompt
    assert list(record.response_ids) == answer.token_ids == list(turn.token_ids)
    assert list(record.logprobs) == answer.log_probs
    assert record.mask == (1,) * len(answer.token_ids)


async def test_several_turns_keep_sampled_ids_and_mask_out_the_context(tokenizer: Any) -> None:
    texts = [f"first {ODD}", "a\ufffdb", "last"]
    answers = [said(tokenizer, text) for text in texts]
    policy = policy_of(tokenizer, ScriptedEngine(list(answers)))
    await policy.start(START, [])
    for observation in (f"out: {ODD}", "exit code 0"):
        await policy.turn(200)
        await policy.observe([{"role": "tool", "content": observation}])
    await policy.turn(200)
    record = policy.record()
    sampled = [i for i, mask in zip(record.response_ids, record.mask, strict=True) if mask]
    assert sampled == [i for answer in answers for i in answer.token_ids]
    told = [p for p, mask in zip(record.logprobs, record.mask, strict=True) if mask]
    assert told == [p for answer in answers for p in answer.log_probs]
    assert len(record.response_ids) == len(record.mask) == len(record.logprobs)
    assert {p for p, mask in zip(record.logprobs, record.mask, strict=True) if not mask} == {0.0}
    assert record.policy_version == 7


async def test_record_renders_as_the_chat_template_renders_the_conversation(
    tokenizer: Any,
) -> None:
    policy = policy_of(tokenizer, ScriptedEngine([said(tokenizer, "run"), said(tokenizer, "done")]))
    await policy.start(START, [])
    await policy.turn(50)
    await policy.observe([{"role": "tool", "content": ODD}])
    await policy.turn(50)
    record = policy.record()
    conversation = [
        *START,
        {"role": "assistant", "content": "run"},
        {"role": "tool", "content": ODD},
        {"role": "assistant", "content": "done"},
    ]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
    newline = tokenizer.encode("\n", add_special_tokens=False)
    assert list(record.prompt_ids + record.response_ids) + newline == rendered


async def test_half_a_character_is_recorded_by_id_and_shown_with_a_replacement(
    tokenizer: Any,
) -> None:
    crab = tokenizer.encode("🦀", add_special_tokens=False)
    half = [*crab[:2], tokenizer.eos_token_id]
    engine = ScriptedEngine([Answer(half, [-1.0] * 3, extra_fields={"global_steps": 0})])
    policy = policy_of(tokenizer, engine)
    await policy.start(START, [])
    turn = await policy.turn(20)
    assert "\ufffd" in turn.text
    await policy.observe([{"role": "user", "content": "again"}])
    assert list(policy.record().response_ids[:3]) == half


async def test_turn_without_end_token_stops_by_length_and_forbids_an_observation(
    tokenizer: Any,
) -> None:
    policy = policy_of(tokenizer, ScriptedEngine([said(tokenizer, "cut", end=False)]))
    await policy.start(START, [])
    turn = await policy.turn(50)
    assert turn.stop == "length"
    before = policy.record()
    with pytest.raises(RuntimeError, match="end token"):
        await policy.observe([{"role": "user", "content": "more"}])
    assert policy.record() == before


async def test_turn_is_bounded_by_what_is_left_of_the_response_budget(
    tokenizer: Any, hf: Engine
) -> None:
    policy = policy_of(tokenizer, HfEngine(hf), response_tokens=5)
    await policy.start(START, [])
    turn = await policy.turn(100)
    assert len(turn.token_ids) <= 5
    if turn.stop == "length":
        with pytest.raises(PolicyOutOfRoom):
            await policy.turn(100)


async def test_observation_without_room_to_answer_is_refused_and_leaves_no_trace(
    tokenizer: Any,
) -> None:
    policy = policy_of(tokenizer, ScriptedEngine([said(tokenizer, "ok")]), response_tokens=30)
    await policy.start(START, [])
    await policy.turn(20)
    before = policy.record()
    with pytest.raises(PolicyOutOfRoom):
        await policy.observe([{"role": "tool", "content": "x y " * 50}])
    assert policy.record() == before


async def test_prompt_above_the_limit_is_refused_instead_of_cut(tokenizer: Any) -> None:
    policy = policy_of(tokenizer, ScriptedEngine([]))
    with pytest.raises(PolicyOutOfRoom, match="max_prompt_tokens is 200"):
        await policy.start([{"role": "user", "content": "x y " * 300}], [])
    assert policy.record().trainable_tokens == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer([], []), "gave up"),
        (Answer([5], [-1.0], stop_reason="aborted"), "gave up"),
        (Answer([5, 6], [-1.0]), "no log-probability"),
        (Answer([5] * 99, [-1.0] * 99), "were allowed"),
        (OSError("actor died"), "actor died"),
    ],
)
async def test_engine_trouble_is_never_taken_for_a_turn(
    tokenizer: Any, answer: Any, message: str
) -> None:
    policy = policy_of(tokenizer, ScriptedEngine([answer]))
    await policy.start(START, [])
    with pytest.raises(PolicyUnavailable, match=re.escape(message)):
        await policy.turn(20)
    assert policy.record().response_ids == ()


def test_derived_seeds_differ_by_every_part_and_repeat() -> None:
    seeds = {derived_seed(1, step, index, sample) for step in range(5) for index in range(5)
             for sample in range(5)}  # fmt: skip
    assert len(seeds) == 125
    assert derived_seed(1, 2, 3) == derived_seed(1, 2, 3)
    assert all(0 <= seed < 2**31 for seed in seeds)
