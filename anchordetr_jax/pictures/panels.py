"""What the panels of all plots have in common (matplotlib): colours, style, and writing the figure.

Figures are made without pyplot, so they neither need nor change the state of an interactive session.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from etils import epath

from anchordetr_jax.files import write_atomically

if TYPE_CHECKING:  # Matplotlib takes half a second to import, and most commands draw no figure at once.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_INSIDE = 7
"""Legends of more curves would cover them."""
COLOURS = ("#1f4e8c", "#d1495b", "#2a9d6f", "#e0932f", "#7d5ba6", "#3aa6b9", "#8a6d5c", "#c85aa0")
LEGEND: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.8}
"""The look of a legend: it can be read where curves lie under it."""


def style_panel(panel: Axes, title: str, x_label: str) -> None:
    """Gives a panel its title, its label and a light grid."""
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(x_label)
    panel.grid(True, color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def add_legend(panel: Axes, title: str | None = None) -> None:
    """Adds a legend of the panel's curves: inside, or below the figure if there are many and no other panels."""
    from matplotlib.figure import Figure

    handles, labels = panel.get_legend_handles_labels()
    figure = panel.get_figure()
    look: dict[str, Any] = {**LEGEND, "fontsize": 9, "title": title, "title_fontsize": 9}
    if len(handles) > _MOST_INSIDE and isinstance(figure, Figure) and len(figure.axes) == 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, **look)
    elif handles:
        panel.legend(**look)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: epath.PathLike, *, dpi: int = 110) -> None:
    """Writes a figure as a PNG file."""
    write_atomically(path, figure_png(figure, dpi=dpi))


def figure_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """A figure as the contents of a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


def say_nothing_yet(panel: Axes) -> None:
    """Writes into a panel without data that there is none yet."""
    panel.text(0.5, 0.5, "nothing yet", transform=panel.transAxes, ha="center", va="center", color="#999999")


def make_logarithmic(panel: Axes) -> None:
    """Gives a panel a logarithmic y axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    panel.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(plain)
    panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panel.yaxis.set_minor_formatter(plain)
