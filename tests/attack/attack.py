"""Attack underpaint with bad input: `python tests/attack/attack.py --seed 0 [--only WORDS] [--limit N]`.

Counts tracebacks, silent wrongs, half files and poor sentences, and lists them. All of it takes an hour or more:
`--log FILE` keeps every verdict as a line of JSON, and what stands there is not run again when the command is repeated;
`--part 1/2` and `--part 2/2` are halves for two processes, each with a log of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from random import Random

from attack_cases import Case, cases, workplace
from attack_judge import Verdict, judge


def attack(chosen: Iterable[tuple[int, Case]], log: Path | None, tell_all: bool = False) -> Counter[str]:
    """Run numbered cases, each in a folder of its own, and count what became of them, with those already in the log."""
    known, counts = read_log(log), Counter[str]()
    for number, case in chosen:
        verdict, took = known.get((number, case.what)), 0.0
        if verdict is None:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as name:
                verdict = judge(case, Path(name))
            took = time.monotonic() - began
            if log is not None:
                line = {"number": number, "what": case.what, "seconds": round(took, 1), **asdict(verdict)}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        kind = (verdict.fault or "").partition(":")[0]
        counts[kind or ("refused" if verdict.refused else "taken")] += 1
        if verdict.fault or tell_all or took > 10:
            print(f"[{verdict.fault or 'fine'}] {case.what} ({took:.1f} s)\n      {verdict.words}", flush=True)
    return counts


def read_log(log: Path | None) -> dict[tuple[int, str], Verdict]:
    """(number, words) of a case -> what became of it; a line that was cut off is passed over."""
    known = {}
    for text in log.read_text().splitlines() if log is not None and log.is_file() else ():
        if text.endswith("}"):
            line = json.loads(text)
            known[line["number"], line["what"]] = Verdict(line["fault"], line["words"], line["refused"])
    return known


def part(text: str) -> tuple[int, int]:
    """ "2/3" as (2, 3)."""
    which, of = map(int, text.split("/"))
    if not 1 <= which <= of:
        raise ValueError
    return which, of


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose words hold this")
    parser.add_argument("--limit", type=int, help="so many cases, chosen by chance")
    parser.add_argument("--refusals", action="store_true", help="only what has to be refused")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help="every Nth case, from the Ith on")
    parser.add_argument("--log", type=Path, help="keep verdicts there, and go on from those that it has")
    parser.add_argument("--all", action="store_true", help="list all that is said")
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1] / "helpers"))
    with tempfile.TemporaryDirectory() as name:
        work, rng = Path(name), Random(given.seed)
        workplace(work)
        chosen = [(number, case) for number, case in enumerate(cases(work, rng)) if given.only in case.what]
        chosen = [(number, case) for number, case in chosen if not given.refusals or case.fits is False]
        if given.limit is not None:
            chosen = rng.sample(chosen, min(given.limit, len(chosen)))
        which, of = given.part
        chosen = chosen[which - 1 :: of]
        print(f"{len(chosen)} cases", flush=True)
        counts = attack(chosen, given.log, given.all)
    print(", ".join(f"{number} {kind}" for kind, number in counts.most_common()))


if __name__ == "__main__":
    main()
