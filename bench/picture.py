"""Charts as SVG, readable on light and on dark pages."""

from html import escape

from goals import median

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.number { font-size: 10px; fill: #57606a }
.card { fill: #ffffff; stroke: #d0d7de }
.line { stroke: #8c959f; stroke-dasharray: 3 3 }
.ours { fill: #0969da } .other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .number { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d } .line { stroke: #656c76 }
  .ours { fill: #4493f8 } .other { fill: #656c76 }
}
"""
LEFT, BAR, GAP, WIDTH, TOP = 110, 14, 26, 760, 68


def bars(title, names, groups, digits, line=None):
    """A bar chart. `groups`: pairs of a label and one value (or None) for each name; the first name is ours.
    With a `line` across all groups they have one scale, else each group has its own."""
    longest = max((value or 0 for _, values in groups for value in values), default=0)
    body, y = [], TOP
    for label, values in groups:
        body.append(text(16, y + 10, label))
        y += 18
        scale = (WIDTH - LEFT - 70) / ((longest if line else max(value or 0 for value in values)) or 1)
        for name, value in zip(names, values):
            body.append(text(LEFT - 8, y + BAR - 3, name, anchor="end"))
            width = scale * (value or 0)
            kind = "ours" if name == names[0] else "other"
            body.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}"/>')
            shown = "not measured" if value is None else f"{value:.{digits}f}"
            body.append(text(LEFT + width + 5, y + BAR - 3, shown, "number"))
            y += BAR
        y += GAP
    if line and line <= longest * 1.05:
        x = LEFT + line * scale
        body.append(f'<line class="line" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{y - GAP}"/>')
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">']
    head += [f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>"]
    head += [f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="6"/>']
    return "\n".join(head + [text(16, 32, title, "title")] + body + ["</svg>", ""])


def text(x, y, words, kind="", anchor="start"):
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


# Growths that are drawn, and their titles.
GROWTHS = {
    "clients": "Against the number of clients",
    "size": "Against the size of the value in bytes",
    "hits": "Against the share of hits in %",
    "backends": "Against the number of slow backends",
}
PANELS = [("rate", "requests/s"), ("p99", "p99 ms"), ("cpu", "CPU µs a request")]
COLORS = {"redis-lb": "#0969da", "redis-lb-cache": "#1a7f37", "haproxy": "#8c959f"}
PANEL, HEIGHT, BASE = 250, 300, 250


def growth(title, targets):
    """Three charts beside each other; `targets` have runs by step. The steps are equally far apart."""
    body = [text(16, 28, title, "title")]
    for index, name in enumerate(targets):
        x = 16 + 140 * index
        body.append(f'<rect x="{x}" y="40" width="12" height="4" fill="{COLORS[name]}"/>')
        body.append(text(x + 18, 47, name))
    for index, (key, label) in enumerate(PANELS):
        body += panel(40 + index * PANEL, key, label, targets)
    width = 20 + len(PANELS) * PANEL
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img">'
    card = f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{HEIGHT - 1}" rx="6"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", card, *body, "</svg>", ""])


def panel(left, key, label, targets):
    lines = {name: {step: median(runs, key) for step, runs in steps.items() if runs} for name, steps in targets.items()}
    steps = list(next(iter(targets.values())))
    top = max((value for line in lines.values() for value in line.values()), default=0) or 1
    x = {step: left + index * (PANEL - 50) / max(1, len(steps) - 1) for index, step in enumerate(steps)}
    body = [text(left, 72, f"{label}, up to {top:,.0f}" if top >= 10 else f"{label}, up to {top:.2f}")]
    body.append(f'<line class="line" x1="{left}" y1="{BASE}" x2="{left + PANEL - 50}" y2="{BASE}"/>')
    body += [text(x[step], BASE + 16, step, "number", "middle") for step in steps]
    for name, line in lines.items():
        points = [(x[step], BASE - 165 * value / top) for step, value in line.items()]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
        body += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{COLORS[name]}"/>' for across, up in points]
    return body
