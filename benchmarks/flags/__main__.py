"""How often each flag of answers is right, on labelled answers: `python -m benchmarks.flags`."""

import json
import sys

from benchmarks.flags.labelled import measured


def main() -> int:
    """Prints a table, the mistakes, then one line of JSON."""
    results = measured()
    print(f"{'flag':<12} {'texts':>6} {'with it':>8} {'precision':>10} {'recall':>7}")
    for result in results:
        print(
            f"{result.flag:<12} {result.texts:>6} {result.positives:>8} {result.precision:>10.3f} {result.recall:>7.3f}"
        )
    for result in results:
        for kind, answers in (("accused", result.accused), ("unseen", result.unseen)):
            for answer in answers:
                print(f"{kind} {result.flag}: {answer!r}")
    figures = {
        "flags": len(results),
        "min_precision": round(min(result.precision for result in results), 3),
        "min_recall": round(min(result.recall for result in results), 3),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
