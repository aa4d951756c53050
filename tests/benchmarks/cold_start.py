"""How long does `ldkit --help` take, beside a Python that does nothing?

    .venv/bin/python tests/benchmarks/cold_start.py

New processes throughout: help, help again (A/A), a recipe listing, and `python -c pass`. Files are
warm in the page cache after the round that is not counted.
"""

import argparse
import subprocess
import sys
from statistics import median

from tests.benchmarks.paired import (
    Arm,
    Goal,
    measure,
    ratio,
    say,
    show_arms,
    show_machine,
    spread,
    verdict,
)


def main() -> None:
    """Time the processes and say whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    arms = {
        "ldkit --help": _process("-m", "ldkit", "--help"),
        "ldkit --help (A/A)": _process("-m", "ldkit", "--help"),
        "ldkit recipe list": _process("-m", "ldkit", "recipe", "list"),
        "python -c pass": _process("-c", "pass"),
    }
    show_machine(f"{rounds} rounds")
    seconds = measure(arms, rounds)
    show_arms(seconds, "python -c pass")
    noise = spread(ratio(seconds, "ldkit --help (A/A)", "ldkit --help"))
    say("")
    say(verdict(Goal("ldkit --help, seconds", 0.5), median(seconds["ldkit --help"]), noise))


def _process(*words: str) -> Arm:
    def run(_: int) -> None:
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)

    return run


if __name__ == "__main__":
    main()
