"""Documents that are made from tables say what the tables say."""

from pathlib import Path

from app.domain import diagram
from app.domain.states import Reason, RunState

PAGE = Path(__file__).resolve().parents[2] / "docs" / "run-lifecycle.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text() == diagram.page(), (
        "run: python -m app.domain.diagram > docs/run-lifecycle.md"
    )


def test_every_state_and_every_reason_is_explained() -> None:
    page = diagram.page()
    for state in RunState:
        assert f"**{state}.**" in page
    for reason in Reason:
        assert f"| `{reason}` |" in page
