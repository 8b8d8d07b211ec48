"""The parser of tool calls: what it accepts, how it names the rest, that it is linear."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.training.core.toolcalls import Malformed, Tool, parse

CALL = "<function=execute_bash><parameter=command>{}</parameter></function>"


@pytest.mark.parametrize("name", ["execute_bash", "bash", "run"])
def test_every_alias_of_the_shell_is_the_shell(name: str) -> None:
    parsed = parse(f"<function={name}>\n<parameter=command>\nls -l\n</parameter>\n</function>")
    assert [(c.tool, c.command) for c in parsed.calls] == [(Tool.EXECUTE, "ls -l")]
    assert parsed.malformed == ()


@pytest.mark.parametrize("text", ["<function=finish></function>", "<function=submit> </function>"])
def test_finish_needs_no_parameter(text: str) -> None:
    assert parse(text).calls[0].tool is Tool.FINISH


def test_text_around_a_call_is_no_error() -> None:
    parsed = parse("I look first.\n" + CALL.format("ls") + "\nand wait")
    assert len(parsed.calls) == 1
    assert parsed.malformed == ()


def test_several_calls_keep_their_order() -> None:
    parsed = parse(CALL.format("a") + CALL.format("b") + "<function=finish></function>")
    assert [c.command for c in parsed.calls] == ["a", "b", ""]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", Malformed.NO_CALL),
        ("just words", Malformed.NO_CALL),
        ("<function>ls</function>", Malformed.NO_NAME),
        ("<function=></function>", Malformed.NO_NAME),
        ("<function=a b></function>", Malformed.NO_NAME),
        ("<function=" + "x" * 100 + "></function>", Malformed.NO_NAME),
        ("<function=bash><parameter=command>ls</parameter>", Malformed.NO_END_TAG),
        ("<function=bash><parameter=command>ls</function>", Malformed.NO_END_TAG),
        ("<function=browse></function>", Malformed.UNKNOWN_TOOL),
        ("<function=bash></function>", Malformed.BAD_PARAMETER),
        ("<function=bash><parameter=command> \n</parameter></function>", Malformed.BAD_PARAMETER),
        ("<function=bash><parameter=cmd>ls</parameter></function>", Malformed.BAD_PARAMETER),
        ("<function=bash>ls</function>", Malformed.BAD_PARAMETER),
        (
            "<function=bash><parameter=command>a</parameter>"
            "<parameter=command>b</parameter></function>",
            Malformed.BAD_PARAMETER,
        ),
    ],
)
def test_malformed_calls_are_told_apart(text: str, kind: Malformed) -> None:
    parsed = parse(text)
    assert parsed.calls == ()
    assert parsed.malformed == (kind,)


def test_a_call_after_a_bad_one_is_still_found() -> None:
    parsed = parse("<function=browse></function>" + CALL.format("ls"))
    assert [c.command for c in parsed.calls] == ["ls"]
    assert parsed.malformed == (Malformed.UNKNOWN_TOOL,)


COMMANDS = st.text(alphabet=st.sampled_from("ab \n'\"$&|;-/{}")).filter(lambda s: bool(s.strip()))


@settings(deadline=None)
@given(COMMANDS)
def test_what_is_written_into_a_call_comes_out_of_it(command: str) -> None:
    assert parse(CALL.format(command)).calls[0].command == command.strip()


PIECES = st.sampled_from(
    [
        *("<function", "<function=bash>", "=", ">", "<parameter=", "command>", "</parameter>"),
        *("</function>", "ls", " ", "\n", "<", "\0", "é"),
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_hostile_text_never_raises_and_is_always_classified(pieces: list[str]) -> None:
    parsed = parse("".join(pieces))
    assert parsed.calls or parsed.malformed
    assert all(call.command for call in parsed.calls if call.tool is Tool.EXECUTE)


@pytest.mark.parametrize(
    "piece",
    [
        "<function=bash><parameter=command>",
        "<function=bash>",
        "<function",
        "<parameter=command>",
        "<function=bash><parameter=x>y</parameter>",
        "<function=bash><parameter=" + "k" * 70,
        " ",
    ],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(piece: str) -> None:
    began = time.perf_counter()
    parse("<function=bash>" + piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - began < 3.0
