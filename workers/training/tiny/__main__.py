"""Command line: `python -m workers.training.tiny make | simulate | evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny import evaluate, grpo, tasks, world
from workers.training.tiny.simulator import SimulatedWorkspace


def main() -> int:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    try:
        return int(options.command(options))
    except world.NotAWorld as error:
        print(error, file=sys.stderr)
        return 2


def _make(options: argparse.Namespace) -> int:
    made = world.make(options.out, options.seed, _progress, device=options.device)
    manifest = made.manifest
    _progress(
        f"{'reusing' if made.reused else 'made'} {options.out}: {manifest['parameters']:,}"
        f" parameters, warm-up {manifest['warmup_seconds']} s, sampled reward before training"
        f" {manifest['simulated_reward_before']}"
    )
    return 0


def _simulate(options: argparse.Namespace) -> int:
    """Tuning: GRPO on simulated workspaces, with the sampled reward on eval tasks around it."""
    model, tokenizer = _load(options)
    held_out = tasks.sample_tasks(options.seed, "eval", options.eval_tasks)
    reports: list[grpo.StepReport] = []

    def measure() -> float:
        found = evaluate.evaluate(model, tokenizer, held_out, SimulatedWorkspace, options.seed)
        return found.reward

    def report(step: grpo.StepReport) -> None:
        reports.append(step)
        if step.step % 5 == 0:
            recent = sum(r.reward for r in reports[-5:]) / 5
            _progress(f"step {step.step}/{options.steps}: mean reward of 5 steps {recent:.3f}")

    before = measure()
    hyper = grpo.Hyper(options.prompts, options.n, options.steps, options.lr)
    pool = tasks.sample_tasks(options.seed, "train", options.train_tasks)
    grpo.train(model, tokenizer, pool, SimulatedWorkspace, hyper, options.seed, report)
    print(json.dumps(_summary(options, reports, before, measure())), flush=True)
    return 0


def _summary(
    options: argparse.Namespace, reports: list[grpo.StepReport], before: float, after: float
) -> dict[str, object]:
    fifth = max(1, len(reports) // 5)
    first = sum(r.reward for r in reports[:fifth]) / fifth
    last = sum(r.reward for r in reports[-fifth:]) / fifth
    return {
        "simulated": True,
        "model": str(options.model),
        "seed": options.seed,
        "lr": options.lr,
        "curve": [round(r.reward, 2) for r in reports],
        "first_fifth": round(first, 3),
        "last_fifth": round(last, 3),
        "ratio": round(last / first, 2) if first else None,
        "eval_before": round(before, 3),
        "eval_after": round(after, 3),
        "informative_groups": sum(r.informative_groups for r in reports),
        "groups": len(reports) * options.prompts,
        "unparsed": sum(r.unparsed for r in reports),
    }


def _evaluate(options: argparse.Namespace) -> int:
    model, tokenizer = _load(options)
    pool = tasks.sample_tasks(options.seed, options.split, options.tasks)
    found = evaluate.evaluate(model, tokenizer, pool, SimulatedWorkspace, options.seed)
    print(json.dumps({"simulated": True, "split": options.split, **found.as_dict()}))
    return 0


def _load(options: argparse.Namespace) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    model = Qwen2ForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    return model.to(options.device), PreTrainedTokenizerFast.from_pretrained(options.model)


def _progress(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.training.tiny", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    commands = parser.add_subparsers(required=True)

    make = commands.add_parser("make", help="make the demo's world, or reuse it")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--seed", type=int, default=1)
    make.set_defaults(command=_make)

    simulate = commands.add_parser("simulate", help="GRPO on simulated workspaces (tuning)")
    simulate.add_argument("--model", type=Path, required=True)
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--steps", type=int, default=60)
    simulate.add_argument("--prompts", type=int, default=4)
    simulate.add_argument("--n", type=int, default=8)
    simulate.add_argument("--lr", type=float, default=4e-4)
    simulate.add_argument("--train-tasks", type=int, default=480)
    simulate.add_argument("--eval-tasks", type=int, default=256)
    simulate.set_defaults(command=_simulate)

    measure = commands.add_parser("evaluate", help="sampled reward in simulated workspaces")
    measure.add_argument("--model", type=Path, required=True)
    measure.add_argument("--seed", type=int, default=1)
    measure.add_argument("--split", choices=tasks.SPLITS, default="eval")
    measure.add_argument("--tasks", type=int, default=256)
    measure.set_defaults(command=_evaluate)
    return parser


if __name__ == "__main__":
    sys.exit(main())
