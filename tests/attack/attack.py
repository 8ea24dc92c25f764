"""Attack underpaint with bad input: `python tests/attack/attack.py --seed 0 [--only WORDS] [--limit N]`.

Counts tracebacks, silent wrongs, half files and poor sentences, and lists them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from attack_cases import Case, cases, workplace
from attack_judge import Verdict, judge


def attack(chosen: Iterable[Case], tell: Callable[[Case, Verdict], None]) -> Counter[str]:
    """Run cases, each in a folder of its own, and count what became of them."""
    counts: Counter[str] = Counter()
    for case in chosen:
        with tempfile.TemporaryDirectory() as name:
            verdict = judge(case, Path(name))
        kind = (verdict.fault or "").partition(":")[0]
        counts[kind or ("refused" if verdict.refused else "taken")] += 1
        tell(case, verdict)
    return counts


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose words hold this")
    parser.add_argument("--limit", type=int, help="so many cases, chosen by chance")
    parser.add_argument("--refusals", action="store_true", help="only what has to be refused")
    parser.add_argument("--all", action="store_true", help="list all that is said")
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1] / "helpers"))
    with tempfile.TemporaryDirectory() as name:
        work, rng = Path(name), Random(given.seed)
        workplace(work)
        chosen = [case for case in cases(work, rng) if given.only in case.what]
        chosen = [case for case in chosen if not given.refusals or case.fits is False]
        if given.limit is not None:
            chosen = rng.sample(chosen, min(given.limit, len(chosen)))

        def tell(case: Case, verdict: Verdict) -> None:
            took = time.monotonic() - began[0]
            if verdict.fault or given.all or took > 10:
                print(f"[{verdict.fault or 'fine'}] {case.what} ({took:.1f} s)\n      {verdict.words}", flush=True)
            began[0] = time.monotonic()

        began = [time.monotonic()]
        print(f"{len(chosen)} cases", flush=True)
        counts = attack(chosen, tell)
    print(", ".join(f"{number} {kind}" for kind, number in counts.most_common()))


if __name__ == "__main__":
    main()
