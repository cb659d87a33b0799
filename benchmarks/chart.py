"""Draws the results: a program of the peers' environment, where Matplotlib is.

python chart.py results.json chart.png
"""

import json
import sys
from pathlib import Path
from typing import Any

GROUPS = ("warm round trip", "new session")


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw how far each bar is kept, and the peers side by side."""
    import matplotlib as mpl  # noqa: PLC0415 (only in that environment)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 (the same)

    measured = [line for line in results["lines"] if line["figure"]]
    groups = [group for group in GROUPS if any(line["group"] == group for line in measured)]
    heights = (5, *(2 for _ in groups))
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(11, 12), height_ratios=heights, constrained_layout=True, squeeze=False
    )
    axes = axes[:, 0]
    barred = [line for line in results["lines"] if line["is_met"] is not None][::-1]
    names = [line["name"] for line in barred]
    colours = ["tab:green" if line["is_met"] else "tab:red" for line in barred]
    axes[0].barh(names, [_share(line) for line in barred], color=colours)
    axes[0].axvline(1, color="black")
    axes[0].set(title="Share of what the bar allows: left of 1 it is kept", xscale="log")
    for axis, group in zip(axes[1:], groups, strict=True):
        lines = [line for line in measured if line["group"] == group][::-1]
        drawn = axis.barh([line["name"] for line in lines], [line["figure"] for line in lines])
        axis.bar_label(drawn, [f"{line['figure']:.3g} ms" for line in lines], padding=3)
        axis.set(title=group, xscale="log", xlabel="ms")
        axis.margins(x=0.15)
    figure.suptitle(f"tci, {results['at'][:16]} UTC, {results['machine']['processors']} processors")
    figure.savefig(file, dpi=100)


def _share(line: dict[str, Any]) -> float:
    value = line["ratio"] if line["reference_name"] else line["figure"]
    limit = line["bar"]["limit"]
    share: float = limit / value if line["bar"]["is_floor"] else value / limit
    return max(share, 0.01)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
