"""The floors of `make coverage`."""

import pytest

from tests.branch_coverage import FLOORS, ROOT, below_the_floors


@pytest.mark.parametrize("room", FLOORS)
def test_every_room_with_a_floor_has_tests_of_its_own(room):
    assert list((ROOT / "gproxy" / room).glob("*.py"))
    assert list((ROOT / "tests" / room).glob("test_*.py"))


def test_a_room_at_its_floors_is_accepted():
    assert below_the_floors({room: {"branches": floor, "statements": 100.0} for room, floor in FLOORS.items()}) == []


def test_each_percentage_below_a_floor_is_reported():
    measured = {room: {"branches": 100.0, "statements": 100.0} for room in FLOORS}
    measured["routing"] = {"branches": FLOORS["routing"] - 0.01, "statements": 12.5}
    branches, statements = below_the_floors(measured)
    assert branches.startswith("gproxy/routing: ") and "of the branches" in branches
    assert statements == f"gproxy/routing: 12.50 % of the statements, the floor is {FLOORS['routing']} %"


def test_a_room_that_was_not_measured_is_below_its_floor():
    assert [line.split(":")[0] for line in below_the_floors({})] == [f"gproxy/{room}" for room in FLOORS for _ in "ab"]
