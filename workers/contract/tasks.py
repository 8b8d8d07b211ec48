"""One task of a dataset: what the agent gets, and what only the grader has."""

from pydantic import Field

from workers.contract.base import Message


class ChatMessage(Message):
    role: str
    content: str


class Task(Message):
    task_id: str
    prompt: tuple[ChatMessage, ...]
    files: dict[str, str] = Field(default_factory=dict)
    """Workspace of the agent below ``workdir``: relative path to text."""
    tests: dict[str, str] = Field(default_factory=dict)
    """Hidden tests: written only into the grading sandbox, over whatever the patch made there."""
    test_command: str
    """Run by bash in ``workdir`` of the grading sandbox. It writes ``{"tests": {name: bool}}`` as
    JSON to the path in ``$SKYDECK_RESULTS``; exit code 0 means that all passed."""
    workdir: str = "/testbed"
    image: str = "localhost/skydeck-task:1"
    gold_patch: str = ""
    data_source: str = ""
    split: str = "train"
