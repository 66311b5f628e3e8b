"""How classes and errors look wherever they are drawn: colours that the colour-blind can tell apart, marks, words."""

from __future__ import annotations

from dataclasses import dataclass

# Instead of a number that cannot be told.
UNKNOWN = "\N{EN DASH}"
# Okabe and Ito's without yellow, which is lost on white; the page and the figures draw curves with them in turn.
CURVE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


@dataclass(frozen=True)
class ErrorStyle:
    """How boxes of one kind are drawn on photographs.

    Attributes:
        colour: of the line.
        dash: of the line, as SVG writes it; empty: solid.
        mark: a letter or two before the class name: colour alone is not enough.
        title: short name.
        meaning: what went wrong, in words.
    """

    colour: str
    dash: str
    mark: str
    title: str
    meaning: str


# By error type; "" is what is right.
ERROR_STYLES: dict[str, ErrorStyle] = {
    "": ErrorStyle("#2BC79A", "", "", "right", "found, with the right class and an IoU of at least 0.5"),
    "localisation": ErrorStyle("#F0E442", "9 4", "L", "localisation", "right class, but the box fits badly"),
    "class": ErrorStyle("#56B4E9", "2 4", "C", "class", "the box fits, but the class is wrong"),
    "both": ErrorStyle("#CC79A7", "9 4 2 4", "LC", "class and localisation", "wrong class, and the box fits badly"),
    "duplicate": ErrorStyle("#E69F00", "14 4", "D", "duplicate", "of an object that was found already, more surely"),
    "background": ErrorStyle("#FF6A3D", "4 4", "B", "background", "nothing that is annotated is there"),
    "missed": ErrorStyle("#FF6A3D", "9 5", "M", "missed", "an object that was not found"),
    "ignored": ErrorStyle("#B8BCC2", "2 3", "I", "ignored", "on a crowd: counts neither as right nor as wrong"),
}


def cut(name: str, longest: int = 24) -> str:
    """A name of at most `longest` characters: the middle goes, as long names often differ at their ends."""
    if len(name) <= longest:
        return name
    tail = (longest - 1) // 3
    return f"{name[: longest - 1 - tail]}…{name[len(name) - tail :]}"


def score_text(value: float) -> str:
    """Three digits, or a dash for what cannot be told (-1 or NaN)."""
    return f"{value:.3f}" if value >= 0 else UNKNOWN


def gain_text(gain: float) -> str:
    """A gain with its sign."""
    return f"+{gain:.3f}" if gain >= 0 else UNKNOWN
