"""A group decides together what may be learned from."""

import asyncio

import pytest

from workers.training.integrations.verl.groups import Groups


@pytest.mark.parametrize(
    ("survived", "usable"),
    [
        ([True, True, True], [True, True, True]),
        ([True, False, True], [True, False, True]),
        ([False, True, False], [False, False, False]),
        ([False, False, False], [False, False, False]),
        ([True], [True]),
        ([False], [False]),
    ],
)
async def test_lone_survivor_is_dropped_and_others_stay(
    survived: list[bool], usable: list[bool]
) -> None:
    groups = Groups()
    size = len(survived)
    got = await asyncio.gather(*(groups.settle("g", size, one) for one in survived))
    assert got == usable


async def test_member_waits_for_its_last_sibling() -> None:
    groups = Groups()
    first = asyncio.create_task(groups.settle("g", 2, True))
    await asyncio.sleep(0)
    assert not first.done()
    assert await groups.settle("g", 2, True)
    assert await first


async def test_groups_do_not_mix_and_an_id_may_come_again() -> None:
    groups = Groups()
    for _ in range(2):
        got = await asyncio.gather(
            groups.settle("a", 2, True), groups.settle("b", 2, True),
            groups.settle("a", 2, True), groups.settle("b", 2, False),
        )  # fmt: skip
        assert got == [True, False, True, False]
