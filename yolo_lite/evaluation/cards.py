"""The gallery as HTML: photographs once each, and over them boxes as SVG, which stay sharp and can be filtered."""

from __future__ import annotations

from yolo_lite.data.images import ImageFiles
from yolo_lite.evaluation.gallery import Mark, Picture, every_mark, read_photo
from yolo_lite.evaluation.styles import ERROR_STYLES, cut, score_text
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.html import data_uri, text

LETTER = 24.0  # canvas units, the height of a letter on a small card
FEW_MARKS = 6  # so many boxes of a picture carry their names on small cards too
# A very flat image would leave no room for a name.
SMALLEST_SIDE = 120.0


class Photos:
    """The photographs of a page, each of them once, whatever the number of cards that show it."""

    def __init__(self) -> None:
        self._html: dict[str, str] = {}

    def add(self, files: ImageFiles, picture: Picture) -> str:
        """The id of the photograph in the page."""
        path = files.name(picture.position)
        if path not in self._html:
            size = f'width="{picture.width:.1f}" height="{picture.height:.1f}"'
            try:
                photo = data_uri(read_photo(files, picture.position), "image/jpeg")
                body = f'<image {size} preserveAspectRatio="none" href="{photo}"/>'
            except UserError as error:
                reason = str(error).removeprefix(f"cannot decode image {path}: ")
                body = (
                    f'<rect {size} fill="#777"/><text class="unreadable" x="12" y="28">'
                    f"not readable: {text(cut(reason, 60))}</text>"
                )
            self._html[path] = f'<g id="photo-{len(self._html)}">{body}</g>'
        return f"photo-{list(self._html).index(path)}"

    def html(self) -> str:
        """All of them, not shown by themselves."""
        return f'<svg class="photos" aria-hidden="true"><defs>{"".join(self._html.values())}</defs></svg>'


def card(picture: Picture, photo: str, names: list[str], model: str) -> str:
    """One image: what is annotated beside what was found.

    Args:
        picture: what to draw.
        photo: id of the photograph.
        names: of the classes.
        model: name of the model, for those who hear the page.
    """
    pairs = sorted({(mark.label, mark.error) for mark in every_mark(picture)})
    summary = (
        f"{picture.num_objects} annotated, {picture.num_detections} found, "
        f"{picture.num_errors} error{'' if picture.num_errors == 1 else 's'}"
    )
    halves = (("annotated", picture.truth, picture.num_objects), ("found", picture.predictions, picture.num_detections))
    panels = "".join(panel(title, drawn, total, picture, photo, names) for title, drawn, total in halves)
    return (
        f'<figure class="card" data-found="{picture.found:.4f}" data-errors="{picture.num_errors}" '
        f'data-name="{text(picture.name)}" data-marks="{text(" ".join(f"{c}:{error}" for c, error in pairs))}">'
        f'<button type="button" class="open" aria-label="Enlarge {text(picture.name)}, {text(model)}: {summary}">'
        f'<span class="pair">{panels}</span></button>'
        f'<figcaption><b title="{text(picture.name)}">{text(cut(picture.name, 40))}</b>'
        f" F1 {score_text(picture.found)} · {summary}</figcaption></figure>"
    )


def panel(title: str, drawn: list[Mark], total: int, picture: Picture, photo: str, names: list[str]) -> str:
    """One half of a card."""
    height = max(picture.height, SMALLEST_SIDE)
    width = max(picture.width, SMALLEST_SIDE)
    hidden = f", {len(drawn)} of {total} drawn" if len(drawn) < total else ""
    few = " few" if len(drawn) <= FEW_MARKS else ""
    boxes = "".join(mark_svg(mark, names, width, height) for mark in drawn)
    return (
        f'<span class="half"><span class="half-title">{title}{hidden}</span>'
        f'<svg class="picture{few}" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{title}">'
        f'<use href="#{photo}"/>{boxes}</svg></span>'
    )


def mark_svg(mark: Mark, names: list[str], width: float, height: float) -> str:
    """A box with its class, and with its score where it has one, inside a canvas of width x height."""
    style = ERROR_STYLES[mark.error]
    left, top, box_width, box_height = mark.box_xywh
    name, score = names[mark.label], "" if mark.score is None else f" {mark.score:.2f}"
    place = f'x="{left:.1f}" y="{top:.1f}" width="{box_width:.1f}" height="{box_height:.1f}"'
    shown = f"{style.mark} {cut(name, 16)}{score}".strip()
    # Above the box where there is room, else inside; ending at its right side where it would leave the picture.
    baseline = top - 4 if top > LETTER else min(top + LETTER, height - 3)
    ends = left + len(shown) * LETTER * 0.62 > width
    anchor = f'x="{min(left + box_width, width - 2):.1f}" text-anchor="end"' if ends else f'x="{left + 1:.1f}"'
    return (
        f'<g class="mark" data-class="{mark.label}" data-error="{mark.error}">'
        f"<title>{text(name)}{score}: {text(style.title)}</title>"
        f'<rect class="halo" {place}/><rect class="line" {place}/>'
        f'<text {anchor} y="{baseline:.1f}">{text(shown)}</text></g>'
    )


def gallery_html(cards: list[str], model: str) -> str:
    """The gallery of a model, with the places that the script fills with filters."""
    if not cards:
        return '<p class="dim">No image has an annotated object or a detection.</p>'
    return (
        '<div class="filters" hidden>'
        '<div class="chips" role="group" aria-label="Error type"></div>'
        '<label>Class <select class="by-class"></select></label> '
        '<label>Order <select class="by-order"><option value="worst">worst first</option>'
        '<option value="best">best first</option><option value="errors">most errors first</option>'
        '<option value="name">by name</option></select></label> '
        '<output class="shown" aria-live="polite"></output></div>'
        f'<div class="cards" data-model="{text(model)}">{"".join(cards)}</div>'
    )


def error_legend() -> str:
    """What colours and letters mean."""
    rows = (
        f'<li data-error="{error}"><svg class="swatch" viewBox="0 0 30 16" aria-hidden="true"><g class="mark" '
        f'data-error="{error}"><rect class="halo" x="2" y="2" width="26" height="12"/>'
        f'<rect class="line" x="2" y="2" width="26" height="12"/></g></svg> '
        f"<b>{text(f'{style.mark} {style.title}'.strip())}</b> {text(style.meaning)}</li>"
        for error, style in ERROR_STYLES.items()
    )
    summary = "<summary>What colours and letters mean</summary>"
    return f'<details class="legend-of-errors">{summary}<ul>{"".join(rows)}</ul></details>'


def error_style() -> str:
    """The style sheet of the marks."""
    rules = (
        f'.mark[data-error="{error}"] .line{{stroke:{style.colour};stroke-dasharray:{style.dash or "none"}}}'
        f'.mark[data-error="{error}"] text{{fill:{style.colour}}}'
        f'.dot[data-error="{error}"]{{background:{style.colour}}}'
        for error, style in ERROR_STYLES.items()
    )
    return "".join(rules)
