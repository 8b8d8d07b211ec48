"""The demo's tokenizer, model and warm-up, on the real libraries but for a few steps only."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.training.tiny import demonstrator, dialogue, grpo, model, sampling, tasks, tokenizer
from workers.training.tiny import world as worlds
from workers.training.tiny.demonstrator import Skill
from workers.training.tiny.recipe import RECIPE, Phase, Recipe, Schedule, Shape
from workers.training.tiny.simulator import SimulatedWorkspace

WORDS = tokenizer.build()
CLUMSY = Skill(0.3, 0.6, 0.6, 0.6)
QUICK = Recipe(
    version=0,
    shape=Shape(hidden=32, layers=1, ffn=64, heads=2, kv_heads=1),
    phases=(Phase(CLUMSY, 2, Schedule(steps=3, batch=4, lr=1e-3)),),
    train_tasks=6,
    eval_tasks=5,
    measured_tasks=4,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _quiet(_: str) -> None:
    """Progress nobody reads."""


def test_a_tool_call_survives_decoding_without_special_tokens() -> None:
    text = demonstrator.call("sed -i 's/*/%/' cart.py && python3 check.py")
    ids = WORDS.encode(text + "<|im_end|>", add_special_tokens=False)
    assert WORDS.decode(ids, skip_special_tokens=True) == text
    assert len(ids) <= dialogue.TURN_TOKENS


def test_the_trainer_s_expectations_of_a_qwen_tokenizer_hold() -> None:
    assert len(WORDS.encode("\n", add_special_tokens=False)) == 1
    assert WORDS.eos_token == "<|im_end|>"
    assert WORDS.pad_token_id == 0


def test_every_operator_and_name_is_one_token_where_the_model_must_choose_it() -> None:
    for name in tasks.MODULES:
        assert len(WORDS.encode(f" {name}", add_special_tokens=False)) == 1
    for operation in tasks.OPERATIONS:
        alone = WORDS.encode(operation.symbol, add_special_tokens=False)
        assert len(alone) == 1
        assert alone[0] in WORDS.encode(f"s/{operation.symbol}/x/'", add_special_tokens=False)


def test_prompts_and_dialogues_stay_within_the_declared_lengths() -> None:
    rng = random.Random(0)
    for split in tasks.SPLITS:
        for task in tasks.sample_tasks(5, split, 300):
            prompt = dialogue.prompt_ids(WORDS, task)
            whole = dialogue.demonstrate(rng, WORDS, task, CLUMSY)
            assert len(prompt) <= dialogue.PROMPT_TOKENS
            assert len(whole.ids) - len(prompt) <= dialogue.RESPONSE_TOKENS


def test_a_demonstration_is_the_template_s_rendering_and_marks_the_agent_s_tokens() -> None:
    task = tasks.sample_tasks(1, "warmup", 1)[0]
    faultless = Skill(1.0, 1.0, 1.0, 1.0)
    shown = dialogue.demonstrate(random.Random(0), WORDS, task, faultless)
    call = demonstrator.call(demonstrator.gold(task).command())
    messages = [
        {"role": "user", "content": task.issue()},
        {"role": "assistant", "content": call},
        {"role": "tool", "content": "PASSED"},
        {"role": "assistant", "content": demonstrator.FINISH},
    ]
    assert WORDS.decode(shown.ids) + "\n" == WORDS.apply_chat_template(messages, tokenize=False)
    own = [i for i, mask in zip(shown.ids, shown.mask, strict=True) if mask]
    assert WORDS.decode(own) == f"{call}<|im_end|>{demonstrator.FINISH}<|im_end|>"


def test_the_vocabulary_is_exactly_the_tokenizer_s_and_the_model_is_tiny() -> None:
    net = model.build(WORDS, RECIPE.shape, seed=1)
    assert net.config.vocab_size == len(WORDS)
    assert model.parameters(net) < 1_000_000


def test_sampled_log_probs_are_those_of_the_whole_sequence() -> None:
    """Left padding, cache and turns must not change what the model would say of its own text."""
    net = model.build(WORDS, QUICK.shape, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    sampled = tasks.sample_tasks(1, "train", 3)
    prompts = [dialogue.prompt_ids(WORDS, task) for task in sampled]
    prompts[1] = prompts[1][:-9]
    end, pad = int(WORDS.eos_token_id), int(WORDS.pad_token_id)
    drawn = sampling.generate(net, prompts, end, pad, generator)
    for prompt, (ids, log_probs) in zip(prompts, drawn, strict=True):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(log_probs), expected, atol=1e-4, rtol=1e-4)


def test_a_policy_step_makes_the_rewarded_rollout_likelier() -> None:
    net = model.build(WORDS, QUICK.shape, seed=1)
    sampled = tasks.sample_tasks(1, "train", 2)
    generator = torch.Generator().manual_seed(0)
    rollouts = sampling.roll_out(net, WORDS, sampled, SimulatedWorkspace, generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [_log_prob(net, rollout) for rollout in rollouts]
    grpo.policy_loss(net, rollouts, torch.tensor([1.0, -1.0]), clip=0.2).backward()
    optimizer.step()
    after = [_log_prob(net, rollout) for rollout in rollouts]
    assert after[0] - before[0] > after[1] - before[1]


def _log_prob(net: torch.nn.Module, rollout: sampling.Rollout) -> float:
    ids = torch.tensor([rollout.ids])
    with torch.no_grad():
        scores = net(input_ids=ids).logits[:, :-1].log_softmax(-1)
    chosen = scores.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return float((chosen * torch.tensor([rollout.mask])[:, 1:]).sum())


def test_a_world_loads_with_the_usual_classes_and_is_reused(tmp_path: Path) -> None:
    out = tmp_path / "world"
    made = worlds.make(out, 1, _quiet, QUICK)
    net = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(out / "model")
    assert net.config.vocab_size == len(words) == len(WORDS)
    assert net.config.model_type == "qwen2"
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert len(rows) == QUICK.train_tasks
    assert not made.reused
    again = worlds.make(out, 1, _quiet, QUICK)
    assert again.reused
    assert again.manifest == made.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_the_same_seed_makes_the_same_world_and_another_seed_another(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> str:
        return str(worlds.make(tmp_path / name, seed, _quiet, QUICK).manifest["sha256"])

    assert digest("a", 1) == digest("b", 1)
    assert digest("c", 2) != digest("a", 1)


def test_an_altered_world_or_recipe_is_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "world"
    made = worlds.make(out, 1, _quiet, QUICK)
    (out / "train.jsonl").write_text("{}")
    mended = worlds.make(out, 1, _quiet, QUICK)
    assert not mended.reused
    assert mended.manifest["sha256"] == made.manifest["sha256"]
    assert not worlds.make(out, 1, _quiet, replace(QUICK, version=9)).reused


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(worlds.NotAWorld, match="choose another folder"):
        worlds.make(tmp_path, 1, _quiet, QUICK)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
