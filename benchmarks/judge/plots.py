"""Cells -> two plots: false rollbacks against minutes to detect, per split."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np


def draw(found: dict[str, Any], folder: Path) -> None:
    """judge-50.svg and judge-10.svg: a mark per method, worst scenario on one axis, median detection on the other."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for split in ("50%", "10%"):
        figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        for method in next(iter(found.values()))[split]["healthy"]:
            cells = [one[split] for one in found.values() if method in one[split]["healthy"]]
            frr = max(100 * one["healthy"][method]["frr"] for one in cells)
            times = [one[case][method]["median_minutes"] for one in cells for case in one if case != "healthy"]
            times = [60.0 if v is None or not math.isfinite(v) else min(v, 60.0) for v in times]
            axis.plot(np.median(times), max(frr, 0.05), "o", ms=9 if method == "lastgood" else 6)
            axis.annotate(
                method, (float(np.median(times)), max(frr, 0.05)), xytext=(6, 4), textcoords="offset points", fontsize=8
            )
        axis.axhline(1, color="grey", lw=0.8, ls="--")
        axis.set(
            yscale="log", xlim=(0, 66), xlabel="median minutes to detect (60: not within the hour)",
            ylabel="worst false-rollback rate (%/hour)", title=f"new version gets {split}",
        )  # fmt: skip
        figure.savefig(folder / f"judge-{split.rstrip('%')}.svg")
        plt.close(figure)
