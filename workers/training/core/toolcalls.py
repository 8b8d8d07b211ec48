"""Tool calls in a model's text, in the XML form that open coding models are trained on.

``<function=NAME> <parameter=KEY>value</parameter> ... </function>``, with any white space between
the tags. The text is hostile: one pass, no backtracking, every name bounded. What is malformed is
told apart by kind, because "the model never calls a tool" and "our parser never matches" look the
same in a reward curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_OPEN = "<function"
_CLOSE = "</function>"
_PARAMETER = "<parameter="
_PARAMETER_CLOSE = "</parameter>"
_MAX_NAME = 64


class Tool(StrEnum):
    EXECUTE = "execute_bash"
    FINISH = "finish"


ALIASES: Mapping[str, Tool] = {
    "execute_bash": Tool.EXECUTE,
    "bash": Tool.EXECUTE,
    "run": Tool.EXECUTE,
    "finish": Tool.FINISH,
    "submit": Tool.FINISH,
}


class Malformed(StrEnum):
    """Keys of ``CallCounts.malformed``."""

    NO_CALL = "no_call"
    NO_NAME = "no_name"
    NO_END_TAG = "no_end_tag"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_PARAMETER = "bad_parameter"


@dataclass(frozen=True, slots=True)
class ToolCall:
    tool: Tool
    parameters: Mapping[str, str]

    @property
    def command(self) -> str:
        """Of ``execute_bash``; never empty there."""
        return self.parameters.get("command", "").strip()


@dataclass(frozen=True, slots=True)
class Parsed:
    calls: tuple[ToolCall, ...]
    malformed: tuple[Malformed, ...]
    """In order of appearance; ``no_call`` alone when the text has no call at all."""


def parse(text: str) -> Parsed:
    """Every call of one assistant message."""
    calls: list[ToolCall] = []
    malformed: list[Malformed] = []
    at = text.find(_OPEN)
    while at != -1:
        found, after = _Scanner(text, at + len(_OPEN)).call()
        if isinstance(found, ToolCall):
            calls.append(found)
        else:
            malformed.append(found)
        at = text.find(_OPEN, after)
    if not calls and not malformed:
        malformed.append(Malformed.NO_CALL)
    return Parsed(tuple(calls), tuple(malformed))


class _Scanner:
    """Reads one call. The position only moves forward, so the whole text is read once.

    A missing end tag moves it to the end: whatever follows belongs to the open call.
    """

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._at = at

    def call(self) -> tuple[ToolCall | Malformed, int]:
        found = self._call()
        return found, self._at

    def _call(self) -> ToolCall | Malformed:
        name = self._name()
        if name is None:
            return Malformed.NO_NAME
        parameters: dict[str, str] = {}
        sound = True
        self._skip_space()
        while self._take(_PARAMETER):
            key, value = self._name(after_equals=True), self._until(_PARAMETER_CLOSE)
            if value is None:
                return Malformed.NO_END_TAG
            if key is None or key in parameters:
                sound = False
            else:
                parameters[key] = value.strip("\n")
            self._skip_space()
        rest = self._until(_CLOSE)
        if rest is None:
            return Malformed.NO_END_TAG
        return _checked(name, parameters, sound and not rest)

    def _name(self, *, after_equals: bool = False) -> str | None:
        """``=NAME>`` (or ``NAME>``); None, with the position unmoved, when it is not one."""
        at = self._at
        if not after_equals:
            if not self._text.startswith("=", at):
                return None
            at += 1
        end = self._text.find(">", at, at + _MAX_NAME + 1)
        name = self._text[at:end].strip() if end != -1 else ""
        if not name or not all(c.isalnum() or c in "_.-" for c in name):
            return None
        self._at = end + 1
        return name

    def _until(self, tag: str) -> str | None:
        end = self._text.find(tag, self._at)
        if end == -1:
            self._at = len(self._text)
            return None
        value = self._text[self._at : end]
        self._at = end + len(tag)
        return value

    def _take(self, tag: str) -> bool:
        if not self._text.startswith(tag, self._at):
            return False
        self._at += len(tag)
        return True

    def _skip_space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1


def _checked(name: str, parameters: Mapping[str, str], sound: bool) -> ToolCall | Malformed:
    tool = ALIASES.get(name)
    if tool is None:
        return Malformed.UNKNOWN_TOOL
    call = ToolCall(tool, parameters)
    if not sound or (tool is Tool.EXECUTE and not call.command):
        return Malformed.BAD_PARAMETER
    return call


SCHEMAS: tuple[Mapping[str, object], ...] = (
    {
        "type": "function",
        "function": {
            "name": "execute_bash",
            "description": "Runs a command in the sandbox and returns its output.",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string", "description": "A bash command."}},
                "required": ["command"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "finish",
            "description": "Ends the work. The files are judged as they are.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)
"""The tools in the form that chat templates take."""
