"""The picture of the life of a run: eight boxes, and what each leaves."""

from xml.sax.saxutils import escape

STEPS = [
    ("Compose", "conf/ and the command line"),
    ("Check", "names, types, values"),
    ("Look", "read a finished result"),
    ("Read", "data, fingerprint"),
    ("Adapt", "load model, insert method"),
    ("Train", "one loop; checkpoints"),
    ("Evaluate", "the scored splits, once"),
    ("Write", "result.json last"),
]
IN_ROW, WIDTH, HEIGHT, GAP_X, GAP_Y = 4, 200, 74, 28, 44
ACCENT = "#3f51b5"


def draw_life(ink: str, paper: str) -> str:
    """The picture as SVG, in this colour, on a ground of the other."""
    rows = -(-len(STEPS) // IN_ROW)
    wide = IN_ROW * (WIDTH + GAP_X) - GAP_X + 4
    high = rows * (HEIGHT + GAP_Y) - GAP_Y + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}" font-family="system-ui, sans-serif" fill="{ink}">',
        f'<rect width="100%" height="100%" fill="{paper}"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{ink}"/></marker></defs>',
    ]
    for place, (title, text) in enumerate(STEPS):
        parts += draw_box(*locate(place), f"{place + 1}. {title}", text, ink)
    parts += [draw_arrow(place, ink) for place in range(len(STEPS) - 1)]
    return "\n".join([*parts, "</svg>\n"])


def locate(place: int) -> tuple[int, int]:
    """The upper left corner of a box."""
    row, column = divmod(place, IN_ROW)
    return 2 + column * (WIDTH + GAP_X), 2 + row * (HEIGHT + GAP_Y)


def draw_box(x: int, y: int, title: str, text: str, ink: str) -> list[str]:
    """One step."""
    return [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="9" fill="none" '
        f'stroke="{ACCENT}" stroke-width="2"/>',
        f'<text x="{x + 14}" y="{y + 31}" font-size="18" font-weight="600">{escape(title)}</text>',
        f'<text x="{x + 14}" y="{y + 54}" font-size="12.5">{escape(text)}</text>',
    ]


def draw_arrow(place: int, ink: str) -> str:
    """The arrow from a box to the next, down and back at the end of a row."""
    (x, y), (to_x, to_y) = locate(place), locate(place + 1)
    middle = y + HEIGHT // 2
    if y == to_y:
        path = f"M{x + WIDTH} {middle}H{to_x - 2}"
    else:
        turn = y + HEIGHT + GAP_Y // 2
        path = f"M{x + WIDTH // 2} {y + HEIGHT}V{turn}H{to_x + WIDTH // 2}V{to_y - 2}"
    return (
        f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="1.5" marker-end="url(#tip)"/>'
    )
