"""A plugin in Python: how fast the loss that a run printed into its logs came down.

    pip install componentize-py==0.25.1
    componentize-py -d wit -w plugin componentize --stub-wasi -p examples/plugin-python slope -o slope.wasm
    metalab-store -s ./experiments derive slope.wasm

The component holds an interpreter of Python, of some 20 MB. It sees the runs of one experiment and nothing else: what the
standard library wants of a system is answered within the component. `docs/plugins.md` is about plugins.
"""

import re
from statistics import linear_regression

import wit_world
from componentize_py_types import Err
from wit_world.imports import types, view

#: What a line of a log may say.
LOSS = re.compile(r"\bloss[ =:]+(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.IGNORECASE)


class WitWorld(wit_world.WitWorld):
    """The plugin: its class is named like this."""

    def derive(self, run_id: str) -> list[tuple[str, types.MetricValue]]:
        """Derives the metrics of a run. An error is the reason why there are none."""
        losses = [float(found) for name in view.list_logs(run_id) for found in LOSS.findall(text_of(run_id, name))]
        if len(losses) < 2:
            raise Err(f"the logs of {run_id} tell {len(losses)} losses; a slope needs two")
        slope, _ = linear_regression(range(len(losses)), losses)
        return [
            ("loss_last", types.MetricValue_Float(losses[-1])),
            ("loss_lines", types.MetricValue_Integer(len(losses))),
            ("loss_slope", types.MetricValue_Float(slope)),
        ]


def text_of(run_id: str, name: str) -> str:
    """Reads a log, piece by piece."""
    pieces, offset = [], 0
    while (piece := view.read_log(run_id, name, offset, 256 * 1024)) is not None:
        pieces.append(piece.text)
        offset = piece.next_offset
        if piece.end:
            break
    return "".join(pieces)
