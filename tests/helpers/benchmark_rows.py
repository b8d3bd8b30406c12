"""Rows of README's tables of benchmarks, from their result files."""

from __future__ import annotations

Rows = list[dict]
Cell = tuple[str, str, int, int]


def step_row(*rows: dict) -> str:
    """A trainer's in ``lm_step.json`` and in ``lm_step_bf16.json``."""
    cells = [f"{row['tokens_a_second']:,.0f} | {row['peak_megabytes']:,.0f} MB" for row in rows]
    return f"| {rows[0]['name']} | {' | '.join(cells)} |"


def written_row(row: dict) -> str:
    """Of ``on_policy.json``."""
    return f"| {row['name']} | {row['seconds_a_step']:.2f} | {row['peak_megabytes']:,.0f} MB |"


def label_row(row: dict) -> str:
    """Of ``label.json``."""
    return f"| {row['name']} | {row['texts_a_second']:.2f} |"


def encoder_row(row: dict) -> str:
    """Of ``encoders.json``."""
    quality = f"accuracy {row['accuracy']:.4f}" if "accuracy" in row else f"spearman {row['spearman']:.4f}"
    return f"| {row['name']} | {row['rows_a_second']:,.0f} | {row['peak_megabytes']:,.0f} MB | {quality} |"


def sequence_row(row: dict) -> str:
    """Of ``sequence.json``: what a model learned from, and how well it writes."""
    if row["model"] == "teacher":
        learned = ["(the teacher)", "", ""]
    else:
        filters = ", filtered" if row["filters"] else ""
        learned = [f"{row['texts']}'s{filters}", " + ".join(row["objectives"]), f"{row['rows']:,}"]
    cells = []
    for how in ("greedy", "beams"):
        scores = row[how]
        cells.append(f"{scores['bleu']['value']:.2f}")
        gain = scores.get("minus_control", {}).get("bleu")
        cells.append(f"{gain['value']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})" if gain else "")
    return f"| {' | '.join([*learned, *cells])} |"


def paired_row(row: dict) -> str:
    """Of what ``paired.py`` writes: a run's student, and how far that of the first run is from it."""
    score, gap = row["student"], row["first_minus_this"]
    cells = [
        row["run"],
        f"{row['teacher']['value']:.4f}",
        f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})",
        f"{gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})",
    ]
    return f"| {' | '.join(cells)} |"


def cache_row(row: dict) -> str | None:
    """Of ``cache.json``; None for what is no cache."""
    if "scheme" not in row:
        return None
    kept = f"{row['draws']} draws" if "draws" in row else f"{row['k']} likeliest and the rest"
    cells = (f"{row[name]:,.1f}" for name in ("bytes_a_token", "rows_a_second_written", "rows_a_second_read"))
    return f"| {row['teacher']} | {row['scheme']}, {kept} | {' | '.join(cells)} |"


def shown_angles(rows: Rows) -> list[tuple[str, int]]:
    """The schemes of ``gradient_angles.json``, with how many tokens are drawn or kept."""
    return list(dict.fromkeys((row["scheme"], row.get("draws", row.get("k"))) for row in rows))


def angle_row(rows: Rows, scheme: str, kept: int) -> str:
    """Of ``gradient_angles.json``, for the most tokens that were measured."""
    mine = [row for row in rows if row["scheme"] == scheme and row.get("draws", row.get("k")) == kept]
    most = max(row["tokens"] for row in mine)
    start, later = sorted((row for row in mine if row["tokens"] == most), key=lambda row: row["steps"])
    mean = f"{later['degrees_of_mean']:.1f}" if "degrees_of_mean" in later else ""
    what = f"{scheme}, {kept} {'draws' if 'draws' in start else 'tokens'}"
    return f"| {what} | {start['bytes_a_token']:.1f} | {start['degrees']:.1f} | {later['degrees']:.1f} | {mean} |"


def cells_of(rows: Rows) -> list[Cell]:
    """What ``fused_loss.json`` compares: divergence, dtype, vocabulary and positions."""
    names = ("divergence", "dtype", "vocabulary", "positions")
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def loss_row(rows: Rows, cell: Cell) -> str:
    """Of ``fused_loss.json``: seconds and megabytes of every way."""
    names = ("divergence", "dtype", "vocabulary", "positions")
    mine = {row["name"]: row for row in rows if tuple(row[name] for name in names) == cell}
    divergence, dtype, vocabulary, positions = cell
    shown = [_loss_cell(mine.get(name)) for name in ("ours", "plain", "trl", "liger", "products")]
    return f"| {divergence} | {dtype} | {vocabulary:,} | {positions:,} | {' | '.join(shown)} |"


def _loss_cell(row: dict | None) -> str:
    if row is None:
        return "not measured"
    memory = row.get("megabytes", 0)
    if memory is None:
        return "does not fit"
    return f"{row['seconds']:.2f}" + (f", {memory:,.0f}" if memory else "")


def default_row(rows: Rows, name: str) -> str:
    """Of ``defaults.json``: how good the student of each recipe is that is trained in one way."""
    recipes = dict.fromkeys(row["recipe"] for row in rows)
    found = {row["recipe"]: row["student"]["value"] for row in rows if row["name"] == name}
    cells = [f"{found[recipe]:.4f}" if recipe in found else "" for recipe in recipes]
    return f"| {name} | {' | '.join(cells)} |"
