"""A one-million-parameter Qwen2 with random weights, and tasks that need no sandbox."""

import json
import sys
from pathlib import Path
from typing import Any

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.spec import AgentSpec, DataSpec, RunSpec, TrainerSpec
from workers.contract.tasks import ChatMessage, Task
from workers.contract.version import CONTRACT_VERSION

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        ["write hello to out.txt", "exit code 0", "user assistant tool system"],
        trainers.BpeTrainer(
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            vocab_size=300,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        chat_template=TEMPLATE,
        model_max_length=32768,
    )


def make_model(tokenizer: Any) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config).float().eval()


def write_model(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tasks(path: Path, count: int, split: str) -> Path:
    tasks = (
        Task(
            task_id=f"{split}-{number}",
            prompt=(ChatMessage(role="user", content=f"write hello {number} to out.txt"),),
            files={f"in{number}.txt": "é\n"},
            test_command="true",
            data_source="dice",
            split=split,
        )
        for number in range(count)
    )
    path.write_text("".join(task.model_dump_json() + "\n" for task in tasks), encoding="utf-8")
    return path


def make_attempt(
    root: Path,
    model: Path,
    train: Path,
    evaluation: Path,
    number: int = 1,
    resume_from: Path | None = None,
    max_turns: int = 2,
    **trainer: Any,
) -> AttemptFile:
    """Writes attempt.json as the control plane would."""
    folder = root / f"a{number}"
    folder.mkdir(parents=True)
    settings = {
        "model_path": str(model), "steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 4,
        "learning_rate": 1e-3, "max_prompt_tokens": 64, "max_response_tokens": 64,
        "max_turn_tokens": 12, "max_model_len": 256, "micro_batch": 8, "save_every": 1,
        "python": sys.executable,
    }  # fmt: skip
    attempt = AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation="test",
        run_id="run",
        attempt=number,
        attempt_dir=str(folder),
        control_plane_file=str(root / env.CONTROL_PLANE_FILE),
        resume_from=str(resume_from) if resume_from else None,
        spec=RunSpec(
            name="verl",
            agent=AgentSpec(max_turns=max_turns),
            data=DataSpec(train_file=str(train), eval_file=str(evaluation)),
            trainer=TrainerSpec(**(settings | trainer)),
        ),
    )
    (folder / env.ATTEMPT_FILE_NAME).write_text(attempt.model_dump_json(), encoding="utf-8")
    return attempt


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
