"""The plot of `scripts/bench fs`, as SVG: a line for each row, a dot for each peer; logarithmic.

Pure: from the summary to text. The colours can be told apart without seeing red and green, and the
dots have shapes too.
"""

import math
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, LINE, FOOT = 900, 250, 40, 92, 26, 44
STYLES = {  # colour and shape
    "native": ("#333333", "bar"),
    "overlayfs": ("#0072b2", "circle"),
    "fuse-overlayfs": ("#e69f00", "square"),
    "bindfs": ("#999999", "triangle"),
    "agentfs": ("#d6006c", "diamond"),
}
OTHERS = ("#56b4e9", "circle")


def svg(summed):
    rows = [row for row in summed["rows"] if "native" in row["peers"]]
    if not rows:
        return document(80, [label(LEFT, 40, "nothing was compared with the disk")])
    peers = list(rows[0]["peers"])
    ratios = [entry["ratio"] for row in rows for entry in row["peers"].values()]
    least, greatest = limits(ratios)
    bottom = TOP + LINE * len(rows)

    def x(ratio):
        share = math.log(ratio / least) / math.log(greatest / least)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    parts = [*heading(summed), *legend(peers), *scale(x, least, greatest, bottom)]
    for number, row in enumerate(rows):
        parts += line(row, x, TOP + LINE * number + LINE / 2)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(label(middle, bottom + 36, "time as a multiple of the disk's own (logarithmic; left is better)",
                       anchor="middle"))  # fmt: skip
    return document(bottom + FOOT, parts)


def limits(ratios):
    """The scale's ends: powers of two around everything."""
    least = min(0.5, 2 ** math.floor(math.log2(min(ratios))))
    return least, max(4, 2 ** math.ceil(math.log2(max(ratios) * 1.05)))


def heading(summed):
    on = summed["machine"]
    where = f"{on['cpus']} x {on['cpu']}, Linux {on['kernel']}, {on['file_system']}"
    under = f"{where}, medians of {summed['rounds']} rounds"
    who = "as an unprivileged user" if summed["rootless"] else "as root"
    return [
        label(12, 24, f"File system work, {who}", size=16, weight="bold"),
        label(12, 44, under, fill="#666"),
    ]


def legend(peers):
    parts, at = [], LEFT
    for peer in peers:
        parts += [mark(peer, at, 66), label(at + 12, 70, peer)]
        at += 34 + 7 * len(peer)
    return [
        *parts,
        f'<path d="M{at} 58V74" stroke="#d6006c" stroke-dasharray="3 2"/>',
        label(at + 8, 70, "target"),
    ]


def scale(x, least, greatest, bottom):
    parts, tick = [], least
    while tick <= greatest:
        colour, width = ("#333", 1.5) if tick == 1 else ("#ddd", 1)
        parts.append(
            f'<path d="M{x(tick):.1f} {TOP}V{bottom}" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts.append(label(x(tick), bottom + 16, f"{tick:g}", anchor="middle"))
        tick *= 2
    return parts


def line(row, x, y):
    places = {peer: x(entry["ratio"]) for peer, entry in row["peers"].items()}
    ends = f"M{min(places.values()):.1f} {y}H{max(places.values()):.1f}"
    parts = [label(LEFT - 12, y + 4, row["what"], anchor="end"),
             f'<path d="{ends}" stroke="#ccc" stroke-width="2"/>']  # fmt: skip
    if "limit" in row:
        parts.append(
            f'<path d="M{x(row["limit"]):.1f} {y - 10}V{y + 10}" stroke="#d6006c" stroke-dasharray="3 2"/>'
        )
    for peer, place in places.items():
        if peer != "native":
            parts.append(
                mark(peer, place, y, f"{row['what']}: {peer} {row['peers'][peer]['ratio']:.2f}")
            )
    return parts


def mark(peer, x, y, title=""):
    colour, shape = STYLES.get(peer, OTHERS)
    drawn = {
        "bar": f'<path d="M{x:.1f} {y - 6}V{y + 6}" stroke-width="2" stroke="{colour}"',
        "circle": f'<circle cx="{x:.1f}" cy="{y}" r="5"',
        "square": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5}" width="9" height="9"',
        "triangle": f'<path d="M{x:.1f} {y - 6}l6 10.5h-12z"',
        "diamond": f'<path d="M{x:.1f} {y - 7}l7 7l-7 7l-7 -7z"',
    }[shape]
    return (
        f'{drawn} fill="{colour}"><title>{escape(title or peer)}</title></{drawn[1:].split()[0]}>'
    )


def label(x, y, text, anchor="start", size=12, weight="normal", fill="#222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="{fill}">{escape(text)}</text>')  # fmt: skip


def document(height, parts):
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif">')  # fmt: skip
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])
