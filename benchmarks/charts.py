"""Draws charts as SVG. Runs in an environment of its own, which has matplotlib; what to draw comes as JSON on stdin.

{"folder": "...", "charts": [
{"file": "a.svg", "title": "...", "kind": "bars", "bars": {"NAME": {"median": 2, "low": 1, "high": 3}}},
{"file": "b.svg", "title": "...", "kind": "lines", "x": "...", "y": "...", "lines": {"NAME": [[1, 2], [3, 4]]}}
]}
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# The same picture is the same file.
mpl.rcParams["svg.hashsalt"] = "later"

from matplotlib import pyplot as plt  # noqa: E402  after the choice of `use`

OWN = "#c2410c"
BARE = "#a8a29e"
PEER = "#475569"


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    for chart in request["charts"]:
        figure = _bars(chart) if chart["kind"] == "bars" else _lines(chart)
        figure.savefig(Path(request["folder"]) / chart["file"], metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def _bars(chart: dict[str, Any]) -> Any:
    bars = sorted(chart["bars"].items(), key=lambda bar: bar[1]["median"])
    names = [name for name, _ in bars]
    values = [bar["median"] for _, bar in bars]
    spread = [
        [bar["median"] - bar["low"] for _, bar in bars],
        [bar["high"] - bar["median"] for _, bar in bars],
    ]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.4 * len(bars)))
    drawn = axes.barh(names, values, xerr=spread, color=[_colour(name) for name in names], ecolor="#1c1917", capsize=2)
    axes.bar_label(
        drawn, labels=[f" {value:,.4g}" if value < 1000 else f" {value:,.0f}" for value in values], padding=4
    )
    axes.set_title(chart["title"])
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colour(name: str) -> str:
    if name.startswith("later:"):
        return OWN
    return BARE if name.startswith("bare:") else PEER


def _lines(chart: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, points in chart["lines"].items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    if chart.get("log"):
        axes.set_xscale("symlog")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(chart["x"])
    axes.set_ylabel(chart["y"])
    axes.set_title(chart["title"])
    axes.grid(visible=True, color="#e7e5e4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
