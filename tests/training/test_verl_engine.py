"""Batched decoding against one-by-one Hugging Face, and the pushing of weights."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the training environment (make test-training)")

import torch
from verl_world import make_model, make_tokenizer

from workers.training.integrations.verl.hf.decoder import Decoder, Row
from workers.training.integrations.verl.hf.engine import Engine, WeightMismatch, apply_weights
from workers.training.integrations.verl.hf.sampling import SamplingParams, choose

TEXTS = ["a", "write hello 1 to out.txt please, and then some more", "日本 🦀", "exit code 0 " * 9]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return make_model(tokenizer)


@pytest.fixture
def engine(model: Any, tokenizer: Any) -> Iterator[Engine]:
    made = Engine(model, frozenset({tokenizer.eos_token_id}), tokenizer.pad_token_id)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer.encode(text) for text in TEXTS]


def one_by_one(model: Any, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
    )
    with torch.inference_mode():
        logits = model(out).logits[0]
    logprobs = torch.log_softmax(logits, dim=-1)
    ids = out[0, len(prompt) :].tolist()
    return ids, [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)]


async def test_batched_greedy_equals_one_by_one(
    engine: Engine, model: Any, prompts: list[list[int]]
) -> None:
    limits = [5, 17, 9, 12]
    batched = await asyncio.gather(
        *(
            engine.generate(prompt, SamplingParams(limit, temperature=0))
            for prompt, limit in zip(prompts, limits, strict=True)
        )
    )
    for prompt, limit, sampled in zip(prompts, limits, batched, strict=True):
        ids, logprobs = one_by_one(model, prompt, limit)
        assert sampled.token_ids == ids
        assert sampled.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_row_that_joins_midway_decodes_as_if_alone(model: Any, prompts: list[list[int]]) -> None:
    decoder = Decoder(model, frozenset(), 0)
    greedy = [Row(prompt, SamplingParams(8, temperature=0)) for prompt in prompts]
    done = decoder.admit(greedy[:1])
    done += decoder.step()
    done += decoder.admit(greedy[1:3])
    done += decoder.step()
    done += decoder.admit(greedy[3:])
    while decoder.busy:
        done += decoder.step()
    assert {id(row) for row in done} == {id(row) for row in greedy}
    for row in greedy:
        ids, logprobs = one_by_one(model, list(row.prompt_ids), 8)
        assert row.token_ids == ids
        assert row.logprobs == pytest.approx(logprobs, abs=1e-4)


async def test_same_seed_samples_the_same_in_any_company(
    engine: Engine, prompts: list[list[int]]
) -> None:
    params = SamplingParams(10, seed=11)
    alone = await engine.generate(prompts[1], params)
    crowd = await asyncio.gather(
        engine.generate(prompts[1], params),
        *(engine.generate(prompt, SamplingParams(15, seed=3)) for prompt in prompts * 3),
    )
    assert crowd[0].token_ids == alone.token_ids
    other = await engine.generate(prompts[1], SamplingParams(10, seed=12))
    assert other.token_ids != alone.token_ids


async def test_generation_stops_with_the_end_token(model: Any, prompts: list[list[int]]) -> None:
    free, _ = one_by_one(model, prompts[0], 6)
    engine = Engine(model, frozenset({free[2]}), 0)
    engine.start()
    sampled = await engine.generate(prompts[0], SamplingParams(6, temperature=0))
    engine.stop()
    assert sampled.token_ids == free[: free.index(free[2]) + 1]


async def test_sampled_logprobs_are_those_of_the_full_distribution_at_temperature(
    engine: Engine, model: Any, prompts: list[list[int]]
) -> None:
    params = SamplingParams(6, temperature=0.7, top_p=0.5, top_k=20, seed=1)
    sampled = await engine.generate(prompts[1], params)
    with torch.inference_mode():
        logits = model(torch.tensor([prompts[1] + sampled.token_ids])).logits[0]
    want = torch.log_softmax(logits / 0.7, dim=-1)
    offset = len(prompts[1]) - 1
    for index, (token, logprob) in enumerate(zip(sampled.token_ids, sampled.logprobs, strict=True)):
        assert logprob == pytest.approx(float(want[offset + index, token]), abs=1e-4)


def test_choice_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]]))
    draws = [(i + 0.5) / 1000 for i in range(1000)]
    tokens, _ = choose(logits.expand(1000, 3), [SamplingParams(1)] * 1000, draws)
    assert [tokens.count(token) for token in range(3)] == [100, 200, 700]


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(1, top_k=1), {2}),
        (SamplingParams(1, top_k=2), {1, 2}),
        (SamplingParams(1, top_p=0.6), {2}),
        (SamplingParams(1, top_p=0.8), {1, 2}),
        (SamplingParams(1, temperature=0), {2}),
    ],
)
def test_narrowed_choice_never_leaves_its_set(params: SamplingParams, allowed: set[int]) -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]]))
    draws = [i / 100 for i in range(100)]
    tokens, _ = choose(logits.expand(100, 3), [params] * 100, draws)
    assert set(tokens) == allowed


async def test_weights_that_do_not_fit_are_refused_and_the_engine_goes_on(
    engine: Engine, model: Any, prompts: list[list[int]]
) -> None:
    state = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(WeightMismatch, match="unknown"):
        await engine.load(state | {"model.stranger": torch.zeros(1)}, 1)
    state.pop("model.norm.weight")
    with pytest.raises(WeightMismatch, match="missing"):
        await engine.load(state, 1)
    sampled = await engine.generate(prompts[0], SamplingParams(2))
    assert sampled.version == 0


async def test_pushed_weights_change_what_is_sampled_and_carry_their_version(
    tokenizer: Any, prompts: list[list[int]]
) -> None:
    model = make_model(tokenizer)
    engine = Engine(model, frozenset(), 0)
    engine.start()
    greedy = SamplingParams(8, temperature=0)
    before = await engine.generate(prompts[1], greedy)
    torch.manual_seed(9)
    state = {n: torch.randn_like(p) * 0.1 for n, p in model.named_parameters()}
    tied = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    assert await engine.load(tied, 3) == len(state)
    after = await engine.generate(prompts[1], greedy)
    engine.stop()
    assert after.version == 3
    assert after.token_ids != before.token_ids
    assert after.token_ids == one_by_one(model, prompts[1], 8)[0]


def test_tied_output_layer_may_be_pushed_or_left_out(tokenizer: Any) -> None:
    model = make_model(tokenizer)
    state = dict(model.named_parameters())
    assert "lm_head.weight" not in state
    assert apply_weights(model, state) == len(state)


async def test_request_without_room_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="room"):
        await engine.generate([1], SamplingParams(0))
    with pytest.raises(ValueError, match="prompt"):
        await engine.generate([], SamplingParams(4))


async def test_bad_token_fails_its_callers_and_not_the_engine(
    engine: Engine, prompts: list[list[int]]
) -> None:
    with pytest.raises(IndexError):
        await engine.generate([10**6], SamplingParams(4))
    assert (await engine.generate(prompts[0], SamplingParams(3))).token_ids
