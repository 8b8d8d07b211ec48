"""A byte-level BPE whose words are whole tokens, with a ChatML template."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workers.training.tiny import demonstrator, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Punctuation stands alone: merges such as "/-/" would hide the operator from the model.
_PIECES = r"\.py| -i(?= )| &&| +(?= )| ?[A-Za-z_]+\d*|\d| ?[^\sA-Za-z0-9]|\s"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build() -> PreTrainedTokenizerFast:
    """Train on the closed vocabulary of the task family. Always gives the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    # Not special: markers must survive skip_special_tokens, or no tool call would be parsed.
    bpe.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in demonstrator.MARKERS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    rng = random.Random(0)
    for operation in tasks.OPERATIONS:
        yield f" {operation.noun} {operation.symbol} /{operation.symbol}/"
    for name in (*tasks.MODULES, *tasks.FUNCTIONS):
        yield f" {name} {name}.py"
    yield from ("system", "user", "assistant", "tool", " SyntaxError NameError TypeError")
    yield "sed: can't read: No such file or directory"
    for task in (tasks.sample_task(rng, tasks.combinations("warmup")) for _ in range(200)):
        yield task.issue()
        yield demonstrator.gold(task).command()
        yield from task.files().values()
        yield "PASSED"
