"""Measures the branch coverage of the pure rooms by the tests of their own folders: `make coverage`.

Each room is measured alone, so that the tests of one room do not count for another one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Percent of the branches, and of the statements, that the tests of a room reach at least. A floor may only rise.
FLOORS = {"admission": 100, "routing": 100, "protocols": 98, "channels": 100}
MEASURES = ("branches", "statements")
# A fixed seed: property tests reach the same branches in every run.
TESTS = ("-m", "pytest", "-m", "not slow and not timing", "--hypothesis-seed=0")


def measure(room: str, folder: Path) -> dict[str, float]:
    """Returns the percentages of a room, and prints what its tests do not reach. Raises CalledProcessError."""
    data, report = f"--data-file={folder / room}", folder / f"{room}.json"
    coverage(*("run", "--branch", data, f"--source=gproxy/{room}", *TESTS, f"tests/{room}"))
    coverage("report", data, "--show-missing", "--skip-covered")
    coverage("json", data, "--quiet", "-o", str(report))
    totals = json.loads(report.read_text())["totals"]
    return {measure: totals[f"percent_{measure}_covered"] for measure in MEASURES}


def coverage(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=True)


def below_the_floors(measured: dict[str, dict[str, float]]) -> list[str]:
    """Returns one line for each percentage below the floor of its room. A room without a measurement has 0 %."""
    return [
        f"gproxy/{room}: {percent:.2f} % of the {name}, the floor is {floor} %"
        for room, floor in FLOORS.items()
        for name in MEASURES
        if (percent := measured.get(room, {}).get(name, 0)) < floor
    ]


def main() -> int:
    """Returns the exit status: 1 if a test fails or a room is below its floor."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            measured = {room: measure(room, Path(folder)) for room in FLOORS}
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd[2:4])} ended with status {error.returncode}", file=sys.stderr)
            return 1
    for room, percents in measured.items():
        print(f"gproxy/{room}: " + ", ".join(f"{percent:.2f} % of the {name}" for name, percent in percents.items()))
    faults = below_the_floors(measured)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
