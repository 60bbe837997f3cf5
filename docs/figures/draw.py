"""Draws the figures of docs/conventions.md as SVG: `python docs/figures/draw.py`. Needs nothing but Python."""

from __future__ import annotations

from pathlib import Path

CELL = 28
HERE = Path(__file__).parent
STYLE = 'font-family="sans-serif" font-size="13"'


def text(x: float, y: float, words: str, *, color: str = "#222", anchor: str = "start") -> str:
    """One line of text."""
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}">{words}</text>'


def grid(columns: int, rows: int, left: float, top: float) -> str:
    """Pixels as squares with their centers as dots."""
    parts = []
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * CELL, top + row * CELL
            parts.append(f'<rect x="{x:g}" y="{y:g}" width="{CELL}" height="{CELL}" fill="#fafafa" stroke="#ccc"/>')
            parts.append(f'<circle cx="{x + CELL / 2:g}" cy="{y + CELL / 2:g}" r="1.5" fill="#999"/>')
    return "".join(parts)


def box(column: int, row: int, side: int, left: float, top: float, color: str, *, dashed: bool = False) -> str:
    """The outline of a window whose first pixel is (row, column), and the pixel at index side / 2."""
    x, y = left + column * CELL, top + row * CELL
    center_x, center_y = x + side // 2 * CELL, y + side // 2 * CELL
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<rect x="{center_x:g}" y="{center_y:g}" width="{CELL}" height="{CELL}" fill="{color}" fill-opacity="0.25"/>'
        f'<rect x="{x:g}" y="{y:g}" width="{side * CELL}" height="{side * CELL}" fill="none" stroke="{color}" '
        f'stroke-width="2.5"{dash}/>'
    )


def cross(x: float, y: float, color: str) -> str:
    """A mark at a position in picture units."""
    return f'<path d="M{x - 6:g} {y:g}h12M{x:g} {y - 6:g}v12" stroke="{color}" stroke-width="2"/>'


def picture(name: str, width: float, height: float, *parts: str) -> None:
    """Write one figure."""
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" {STYLE}>'
    (HERE / name).write_text(f'{head}\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')


def draw_box() -> None:
    """A pick at (x, y) = (5.8, 4.3) and its box of 6."""
    left, top = 40.0, 34.0
    at = [edge + (value + 0.5) * CELL for edge, value in ((left, 5.8), (top, 4.3))]
    numbers = [text(left + (n + 0.5) * CELL, top - 8, str(n), anchor="middle", color="#777") for n in range(11)]
    numbers += [text(left - 10, top + (n + 0.65) * CELL, str(n), anchor="end", color="#777") for n in range(9)]
    side = left + 11 * CELL + 24
    picture(
        "box.svg",
        640,
        top + 9 * CELL + 16,
        grid(11, 9, left, top),
        *numbers,
        box(2, 1, 6, left, top, "#0060b0"),
        cross(at[0], at[1], "#c02020"),
        text(side, top + 30, "pick x = 5.8, y = 4.3", color="#c02020"),
        text(side, top + 56, "truncated: pixel (5, 4)", color="#0060b0"),
        text(side, top + 82, "box 6: columns 2 … 7,", color="#0060b0"),
        text(side, top + 102, "rows 1 … 6; the filled pixel", color="#0060b0"),
        text(side, top + 122, "is index 3 = N/2 of the image", color="#0060b0"),
        text(side, top + 160, "whole numbers are the"),
        text(side, top + 180, "centers of pixels"),
    )


def draw_recenter() -> None:
    """A shift of (−2.3, 1.4): the box moves by (+2, −1)."""
    left, top = 40.0, 24.0
    old, shift = (4, 5), (-2.3, 1.4)
    center = [edge + (value + 0.5) * CELL for edge, value in zip((left, top), old, strict=True)]
    particle = [start - moved * CELL for start, moved in zip(center, shift, strict=True)]
    side = left + 12 * CELL + 24
    picture(
        "recenter.svg",
        680,
        top + 9 * CELL + 16,
        grid(12, 9, left, top),
        box(1, 2, 6, left, top, "#888", dashed=True),
        box(3, 1, 6, left, top, "#0060b0"),
        f'<circle cx="{particle[0]:g}" cy="{particle[1]:g}" r="11" fill="#c02020" fill-opacity="0.45"/>',
        f'<path d="M{particle[0]:g} {particle[1]:g}L{center[0]:g} {center[1]:g}" stroke="#c02020" stroke-width="2"/>',
        cross(center[0], center[1], "#555"),
        text(side, top + 30, "dashed: the box as picked", color="#666"),
        text(side, top + 56, "shift s = (x −2.3, y +1.4):", color="#c02020"),
        text(side, top + 76, "from the particle to the center", color="#c02020"),
        text(side, top + 102, "r = (−2, +1); center − r", color="#0060b0"),
        text(side, top + 122, "is the new box", color="#0060b0"),
        text(side, top + 148, "residual s − r = (−0.3, +0.4)"),
        text(side, top + 168, "is written back"),
    )


if __name__ == "__main__":
    draw_box()
    draw_recenter()
