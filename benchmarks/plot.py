"""Draw docs/speed.svg and write README's table, both from the newest figures of the ledger.

    python benchmarks/plot.py

Taken are the last machine in the ledger and its largest number of threads, without load, from an
empty context; of every model, work and peer the last figures. Sides that did not run together are
not put together.
"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ledger

ROOT = Path(__file__).parents[1]
SVG = ROOT / "docs" / "speed.svg"
README = ROOT / "README.md"
MARKS = ("<!-- speed: written by benchmarks/plot.py -->\n", "<!-- /speed -->\n")

SIDES = {  # name in the ledger: name for people, colour
    "edgellama": ("edgellama", "#1f6f8b"),
    "llama.cpp": ("llama.cpp", "#b0b7bd"),
    "llama.cpp-mapped": ("llama.cpp, mapped", "#d5dade"),
    "openvino": ("OpenVINO GenAI", "#c9b79c"),
}
TITLES = {"decode": "Decode", "prompt": "Prompt"}

WIDTH, LEFT, RIGHT = 720, 16, 150  # pixels; RIGHT holds the figures behind the bars
BAR, GAP, LINE = 15, 3, 20
FONT = 'font-family="system-ui, sans-serif"'


@dataclass(frozen=True)
class Chosen:
    """What is shown: rows of one machine and number of threads, decode before prompt."""

    rows: list[dict[str, Any]]

    @property
    def sides(self) -> list[str]:
        return [name for name in SIDES if any(name in row["tokens_per_s"] for row in self.rows)]

    @property
    def circumstances(self) -> str:
        last = self.rows[-1]
        days = sorted({row["date"] for row in self.rows})
        return (
            f"{last['n_threads']} threads, {last['cpu']}, {' to '.join({days[0]: 0, days[-1]: 0})}"
        )


def choose(rows: list[dict[str, Any]]) -> Chosen:
    plain = [row for row in rows if not row["depth"] and not row["busy"]]
    machine = plain[-1]["cpu"]
    n_threads = max(row["n_threads"] for row in plain if row["cpu"] == machine)
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in plain:
        if (row["cpu"], row["n_threads"]) == (machine, n_threads):
            peers = [name for name in SIDES if name in row["tokens_per_s"]][1:]
            newest[row["model"], row["work"], "".join(peers[:1])] = row
    return Chosen([row for work in TITLES for row in newest.values() if row["work"] == work])


def draw(chosen: Chosen) -> str:
    """The figure: a panel for each kind of work, a group of bars for each row."""
    parts: list[str] = []
    y = _legend(parts, chosen)
    for work, title in TITLES.items():
        rows = [row for row in chosen.rows if row["work"] == work]
        if rows:
            y = _panel(parts, y, title, rows)
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT} font-size="12" fill="#22282d">'
    return "\n".join([head, f'<rect {size.split(" viewBox")[0]} fill="#fff"/>', *parts, "</svg>\n"])


def _legend(parts: list[str], chosen: Chosen) -> int:
    x = LEFT
    for name in chosen.sides:
        label, colour = SIDES[name]
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 18, 24, label))
        x += 40 + 7 * len(label)
    parts.append(f'<path d="M{x + 6} 12v16" stroke="#c0392b" stroke-width="2"/>')
    parts.append(_text(x + 14, 24, "read ceiling"))
    parts.append(_text(LEFT, 46, chosen.circumstances, 'fill="#6b747b"'))
    return 62


def _panel(parts: list[str], y: int, title: str, rows: list[dict[str, Any]]) -> int:
    longest = max(max(*row["tokens_per_s"].values(), row.get("ceiling") or 0) for row in rows)
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts.append(_text(LEFT, y + 14, f"{title}, tokens a second", 'font-weight="bold"'))
    y += LINE + 6
    for row in rows:
        parts.append(_text(LEFT, y + 12, f"{row['model']}, {row['work']} {row['n']}"))
        y += LINE
        top = y
        for name in SIDES:
            if name in row["tokens_per_s"]:
                _bar(parts, y, row, name, scale)
                y += BAR + GAP
        if row.get("ceiling"):
            x = LEFT + row["ceiling"] * scale
            line = f'd="M{x:.1f} {top - 2}V{y - 1}" stroke="#c0392b" stroke-width="2"'
            parts.append(f"<path {line}/>")
        y += 8
    return y + 8


def _bar(parts: list[str], y: int, row: dict[str, Any], name: str, scale: float) -> None:
    speed = row["tokens_per_s"][name]
    width = speed * scale
    box = f'x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}"'
    parts.append(f'<rect {box} fill="{SIDES[name][1]}"/>')
    label = f"{speed:.1f}"
    if name in row["ratio"]:
        label += f" (edgellama {row['ratio'][name]:.2f} times)"
    parts.append(_text(LEFT + width + 8, y + 12, label, 'font-size="11"'))


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'.replace(" >", ">")


def readme_table(chosen: Chosen) -> str:
    """The same rows as markdown, and how much private memory they took."""
    sides = chosen.sides
    lines = [
        f"| {chosen.circumstances} | " + " | ".join(SIDES[name][0] for name in sides) + " |",
        "|---" * (1 + len(sides)) + "|",
    ]
    for row in chosen.rows:
        cells = [_cell(row, name) for name in sides]
        lines.append(f"| {row['model']}, {row['work']} {row['n']} | " + " | ".join(cells) + " |")
    for row in chosen.rows:
        if row["work"] == "decode":
            sizes = [row["private_rss"].get(name) for name in sides]
            cells = [f"{size / 1e6:,.0f} MB" if size else "" for size in sizes]
            lines.append(f"| {row['model']}, private memory | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row["tokens_per_s"]:
        return ""
    share = row.get("share_of_ceiling", {}).get(name)
    cell = f"{row['tokens_per_s'][name]:.1f} tok/s"
    return cell if share is None else f"{cell} ({share:.0%})"


def with_table(text: str, table: str) -> str:
    """README with what stands between the marks replaced; ValueError if it has no marks."""
    between = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    if not between.search(text):
        raise ValueError(
            f"README has no place for the table: {MARKS[0].strip()} ... {MARKS[1].strip()}"
        )
    return between.sub(lambda _: f"{MARKS[0]}\n{table}\n{MARKS[1]}", text, count=1)


def main() -> None:
    chosen = choose(ledger.read())
    SVG.write_text(draw(chosen), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(with_table(text, readme_table(chosen)), encoding="utf-8")


if __name__ == "__main__":
    main()
