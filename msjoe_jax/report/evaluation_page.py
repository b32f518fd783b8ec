"""The page of an evaluation: accuracies, what they cost, what they depend on, and questions."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msjoe_jax.report import charts
from msjoe_jax.report.charts import Row, Series, bar_rows, curves, dot_rows, figure, stacked_rows
from msjoe_jax.report.checked import Checked
from msjoe_jax.report.evaluation_folder import (
    LONGEST_REPLY,
    STEPS,
    ArmResult,
    Evaluation,
    Key,
    Sample,
)
from msjoe_jax.report.look_section import STYLE as LOOK_STYLE
from msjoe_jax.report.look_section import answers_table, look_section, thumbnail_bytes
from msjoe_jax.report.page import Html, count, document, joined, markup, paragraph, section, table
from msjoe_jax.report.scale import scale_of

MOST_PICTURES = 2_500_000  # characters of pictures on a page; the questions after have none
MOST_LOOKS = 24
MOST_DIFFERENCES = 40  # that are drawn; the table has all
MOST_NAMES = 40  # of a kind of groups that are drawn
SCORING = ("valid", "tagged", "cut_off", "unparsed", "strict", "official", "lmms-eval", "covered")
# What an arm is made of: a column of the table where arms differ in it.
MADE_OF = (
    *("selector", "queries_by", "scorer", "sampler", "mllm", "answerer"),
    *("sampled", "tiers", "shuffled", "subtitles"),
)
MOST_PAIRS = 60  # of arms, in the section of the same frames
NOT_SETTINGS = ("arms", "differences", "overlap", "sheet")  # of the summary: shown by themselves


def render(evaluation: Evaluation) -> str:
    """Renders the page as HTML."""
    checkpoint = evaluation.summary.row.get("checkpoint")  # one of all models, or one of each
    title = f"Evaluation of {checkpoint if isinstance(checkpoint, str) else evaluation.folder}"
    task = evaluation.summary.text("task", "")
    head = Html(f"<header><div class=facts>msjoe_jax report</div><h1>{markup(title)}</h1></header>")
    facts = [f"task {task}"] if task else []
    facts += [f"{count(len(evaluation.arms), 'row')} of arm and budget"]
    body = [charts.definitions(), head, paragraph(" · ".join(facts)), *sections(evaluation)]
    return document(title, body, charts.STYLE + LOOK_STYLE)


def sections(evaluation: Evaluation) -> Iterator[Html]:
    """Yields the sections of an evaluation, for this page and for that of a run."""
    yield _sheet(evaluation)
    yield _accuracy(evaluation)
    yield _differences(evaluation.summary, evaluation.arms)
    yield _against_budget(evaluation.arms)
    yield from _groups(evaluation.arms)
    yield _scoring(evaluation.arms)
    yield _cost(evaluation)
    yield _overlap(evaluation.summary)
    yield from looks(evaluation)
    yield _settings(evaluation.summary)


def number(value: Any, digits: int = 3) -> str:
    """Writes a number of a table; "–" where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def interval_text(ends: Sequence[float] | None, sign: str = "") -> str:
    """Writes an interval: "[0.760, 0.790]"."""
    return "–" if ends is None else f"[{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"


def accuracy_figure(rows: Sequence[Row], caption: str) -> Html:
    """Draws accuracies with their intervals."""
    ends = [end for row in rows for end in (row.value, *(row.interval or ())) if end is not None]
    scale = scale_of(ends or [0.0, 1.0])
    return figure(dot_rows(rows, scale, "accuracy"), caption)


def _sheet(evaluation: Evaluation) -> Html:
    sheet = evaluation.summary.object("sheet", {})
    rows: list[tuple[object, object]] = []
    for name, value in sheet.items():
        if isinstance(value, dict):
            total = sum(n for n in value.values() if isinstance(n, int | float))
            rows.append((name, number(total)))
            rows += [(f"· {reason}", number(n)) for reason, n in value.items()]
        else:
            rows.append((name.replace("_", " "), plain(value)))
    reasons = collections.Counter(sample.dropped for sample in evaluation.samples if sample.dropped)
    rows.append(("rows in samples.jsonl", number(len(evaluation.samples))))
    rows += [(f"· dropped: {reason}", number(n)) for reason, n in reasons.items()]
    return section("Questions", "what was asked, and what was not", table(("", "number"), rows))


def _accuracy(evaluation: Evaluation) -> Html:
    arms = evaluation.arms
    marks = marks_of(arm.arm for arm in arms)
    rows = [
        Row(arm.name, arm.accuracy, arm.interval, number(arm.accuracy), marks[arm.arm])
        for arm in arms
    ]
    values = {name: {plain(arm.fields.row.get(name)) for arm in arms} for name in MADE_OF}
    shown = [name for name in MADE_OF if len(values[name]) > 1]
    alike = [(n.replace("_", " "), v) for n in MADE_OF for v in values[n] if n not in shown]
    same = [f"{name} {value or 'none'}" for name, value in alike]
    cells = [
        (
            arm.label,
            arm.budget,
            number(arm.questions),
            number(arm.accuracy),
            interval_text(arm.interval),
            *(plain(arm.fields.row.get(name)) for name in shown),
        )
        for arm in arms
    ]
    head = ("arm", "K", "questions", "accuracy", "95 %", *(n.replace("_", " ") for n in shown))
    drawn = accuracy_figure(rows, "A dot is the accuracy, its whisker the 95 % interval.")
    note = paragraph(f"The same for all arms: {', '.join(same)}.") if same else ""
    return section("Accuracy", "of arm @ frame budget", joined([drawn, table(head, cells), note]))


def _differences(summary: Checked, arms: Sequence[ArmResult]) -> Html:
    labels = {arm.key: arm.name for arm in arms}
    rows, cells = [], []
    for place, entry in enumerate(summary.list("differences", dict, ())):
        fields = Checked(entry, f"{summary.place}: differences[{place}]")
        one = fields.text("arm"), fields.whole("budget", 0)
        other = fields.text("against"), fields.whole("against_budget", one[1])
        names = [labels.get(key, f"{key[0]} @ {key[1]}") for key in (one, other)]
        value, ends = fields.number("difference", None), fields.interval("ci95")
        text = "–" if value is None else f"{value:+.3f}"
        rows.append(Row(f"{names[0]} minus {names[1]}", value, ends, text))
        clear = ends is not None and (ends[0] > 0 or ends[1] < 0)
        cells.append((*names, text, interval_text(ends, "+"), "yes" if clear else "no"))
    if not rows:
        return Html("")
    scale = scale_of([e for row in rows for e in (row.value, *(row.interval or ())) if e], low=0.0)
    text = "Paired over the same questions. A whisker that does not reach the dashed line at 0: "
    text += "the difference is clear at 95 %."
    if len(rows) > MOST_DIFFERENCES:
        text += f" The first {MOST_DIFFERENCES} of {len(rows)}; the table has all."
    shown = rows[:MOST_DIFFERENCES]
    drawn = figure(dot_rows(shown, scale, "difference of accuracies", at=0.0), text)
    listed = table(("arm", "against", "difference", "95 %", "clear"), cells)
    return section("Differences", "paired", joined([drawn, listed]))


def _against_budget(arms: Sequence[ArmResult]) -> Html:
    marks = marks_of(arm.arm for arm in arms)
    by_arm: dict[str, list[ArmResult]] = {}
    for arm in arms:
        if arm.accuracy is not None:
            by_arm.setdefault(arm.arm, []).append(arm)

    def drawn(text: str, x_of: Any) -> Html:
        series, values = [], []
        for name, rows in by_arm.items():
            points = sorted((x_of(row), row) for row in rows if (x_of(row) or 0) > 0)
            values += [x for x, _ in points]
            series.append(
                Series(
                    points[0][1].label if points else name,
                    [(x, float(row.accuracy or 0)) for x, row in points],
                    [row.interval for _, row in points],
                    marks[name],
                )
            )
        series = [one for one in series if one.points]
        if all(len(one.points) < 2 for one in series):
            return Html("")
        ends = [e for one in series for pair in one.intervals for e in pair or ()]
        ends += [y for one in series for _, y in one.points]
        x, y = scale_of(values, log=True), scale_of(ends)
        return figure(curves(series, (text, x), ("accuracy", y)), "")

    figures = [
        drawn("frames a question (K, logarithmic)", lambda row: row.budget),
        drawn(
            "tokens of the prompt (logarithmic)",
            lambda row: row.fields.number("tokens_total", None),
        ),
    ]
    figures = [one for one in figures if one]
    if not figures:
        return Html("")
    note = [arm.name for arm in arms if not arm.budget and arm.accuracy is not None]
    text = f"Without frames, and so not drawn over K: {', '.join(note)}." if note else ""
    inner = joined([Html(f'<div class="figures">{joined(figures)}</div>'), paragraph(text)])
    return section("Accuracy against budget", "in frames and in tokens", inner)


def _groups(arms: Sequence[ArmResult]) -> Iterator[Html]:
    budget = budget_of((arm.key for arm in arms), largest=True)
    shown = [arm for arm in arms if arm.budget == budget] or list(arms)
    kinds = dict.fromkeys(kind for arm in shown for kind in arm.fields.object("groups", {}))
    marks = marks_of(arm.arm for arm in arms)
    for kind in kinds:
        sizes: dict[str, int] = {}
        cells: dict[str, list[Row]] = {}
        for arm in shown:
            named = arm.fields.inner("groups").inner(kind, {})
            for name in named.row:
                part = named.inner(name)
                value, n = part.number("accuracy", None), part.whole("questions", 0)
                sizes[name] = max(n, sizes.get(name, 0))
                row = Row(arm.label, value, part.interval("ci95"), number(value), marks[arm.arm])
                cells.setdefault(name, []).append(row)
        names = sorted(cells, key=lambda name: (-sizes[name], name))[:MOST_NAMES]
        scale = scale_of([0.0, 1.0])
        parts = [
            figure(
                joined(
                    [
                        Html(f"<h3>{markup(name)} · {count(sizes[name], 'question')}</h3>"),
                        bar_rows(cells[name], scale),
                    ]
                ),
                "",
                f"accuracy in {kind} {name}",
            )
            for name in sorted(names)
        ]
        inner: list[object] = [Html(f'<div class="figures">{joined(parts)}</div>')]
        if len(cells) > len(names):
            text = f"The {len(names)} groups with the most questions of {len(cells)}."
            inner.append(paragraph(text))
        yield section(f"By {kind}", f"accuracy at K = {budget}, 95 % whiskers", joined(inner))


def _scoring(arms: Sequence[ArmResult]) -> Html:
    shown = [n for n in SCORING if any(arm.fields.row.get(n) is not None for arm in arms)]
    if not shown:
        return Html("")
    rows = [
        (arm.label, arm.budget, *(plain(arm.fields.row.get(name)) for name in shown))
        for arm in arms
    ]
    head = ("arm", "K", *(name.replace("_", " ") for name in shown))
    text = "strict, official and lmms-eval: accuracy by that extractor of letters"
    return section("Replies", text, table(head, rows))


def _cost(evaluation: Evaluation) -> Html:
    by_key: dict[Key, list[Sample]] = {}
    for sample in evaluation.samples:
        if not sample.dropped:
            by_key.setdefault(sample.key, []).append(sample)
    names, seconds, cells = [], [], []
    for arm in evaluation.arms:
        samples = by_key.get(arm.key, [])
        timed = [s.seconds for s in samples if s.seconds is not None]
        steps = [_mean([x for t in timed if (x := t[step]) is not None]) for step in STEPS]
        known = [step for step in steps if step is not None]
        total = sum(known) if len(known) == len(STEPS) else None
        if total is not None:
            names.append(arm.name)
            seconds.append(known)
        tokens = _mean([s.tokens for s in samples if s.tokens is not None])
        prompt = _mean([s.prompt_tokens for s in samples if s.prompt_tokens is not None])
        cells.append(
            (
                arm.label,
                arm.budget,
                *(number(step) for step in steps),
                number(total),
                plain(arm.fields.row.get("tokens_per_frame")),
                number(tokens, 0),
                number(prompt, 0),
            )
        )
    head = ("arm", "K", *(f"{step}, s" for step in STEPS), "all, s")
    head = (*head, "tokens a frame", "visual tokens", "prompt tokens")
    parts: list[object] = []
    if names:
        drawn = stacked_rows(names, STEPS, seconds, "seconds a question")
        parts.append(
            figure(
                drawn, "Mean over the rows that were timed; arms with an untimed step are left out."
            )
        )
    parts.append(table(head, cells))
    return section("Time and tokens", "a question, by step", joined(parts))


def _overlap(summary: Checked) -> Html:
    rows: list[tuple[object, object]] = []
    for budget, found in summary.object("overlap", {}).items():
        shares = sorted(found["shares"], key=lambda pair: -pair[2])
        rows += [(f"{one} and {other}, {budget} frames", share) for one, other, share in shares]
    if not rows:
        return Html("")
    shown = [(name, number(share)) for name, share in rows[:MOST_PAIRS]]
    left = f"; {len(rows) - len(shown):,} pairs with less are left out" if rows[MOST_PAIRS:] else ""
    return section(
        "Same frames",
        f"share of questions whose frames are the same set; above 0.95 two arms are the same{left}",
        table(("arms", "share"), shown),
    )


def _settings(summary: Checked) -> Html:
    kept = {name: value for name, value in summary.row.items() if name not in NOT_SETTINGS}
    rows = [(name, plain(value)) for name, value in flat(kept)]
    return section(
        "What moves a number", "as the summary states it", table(("", ""), rows, "texts")
    )


def looks(evaluation: Evaluation) -> Iterator[Html]:
    """Yields the sections of the questions that were looked at, as many as a page may hold."""
    found = evaluation.looks
    if not found:
        text = "None was looked at closely: evaluate with --looks=N for queries, frames, pictures."
        yield section("Questions in pictures", "", text)
        return
    by_id: dict[str, list[Sample]] = {}
    wanted = {look.id for look in found[:MOST_LOOKS]}
    for sample in evaluation.samples:
        if sample.id in wanted:
            by_id.setdefault(sample.id, []).append(sample)
    budget = budget_of((arm.key for arm in evaluation.arms), largest=False)
    labels = {arm.key: arm.name for arm in evaluation.arms}
    text = f"{min(len(found), MOST_LOOKS)} of {count(len(found), 'question')} that the evaluation "
    text += f"looked at, spread over all; frames at K = {budget}, the smallest budget."
    yield section("Questions in pictures", "", text)
    room = MOST_PICTURES
    for place, look in enumerate(found[:MOST_LOOKS]):
        chosen = [name for name in look.frames if name.endswith(f"@{budget}")]
        chosen = chosen or list(look.frames)
        rows = answer_rows([s for s in by_id.get(look.id, []) if s.budget in (0, budget)], labels)
        size = thumbnail_bytes(look, chosen)
        fits = size <= room
        room -= size if fits else 0
        head: list[object] = [answers_table(rows)] if rows else []
        if look.thumbnails and not fits:
            head.append(paragraph("Its pictures are left out: the page would be too large."))
        yield look_section(look, place, chosen, joined(head), with_pictures=fits)


def answer_rows(
    samples: Sequence[Sample], labels: Mapping[Key, str]
) -> list[tuple[str, str, bool | None, str]]:
    """Makes the rows of `answers_table` of a question's samples."""
    rows = []
    for s in samples:
        name = labels.get(s.key, f"{s.arm} @ {s.budget}") + (f", draw {s.draw}" if s.draw else "")
        reply = f"dropped: {s.dropped}" if s.dropped else shortened(s.reply)
        rows.append((name, s.answer, None if s.score is None else s.score >= 0.5, reply))
    return rows


def shortened(reply: str) -> str:
    """Returns a reply, cut with "…" if it is long."""
    return reply if len(reply) <= LONGEST_REPLY else f"{reply[:LONGEST_REPLY]}…"


def budget_of(keys: Iterator[Key], largest: bool) -> int:
    """Returns the budget above 0 that most arms have; of equals the largest or the smallest."""
    counts = collections.Counter(budget for _, budget in keys if budget > 0)
    sign = 1 if largest else -1
    return max(counts, key=lambda budget: (counts[budget], sign * budget), default=0)


def marks_of(arms: Iterator[str]) -> dict[str, int]:
    """Numbers the arms, so that each has the same marker in every chart."""
    return {arm: place for place, arm in enumerate(dict.fromkeys(arms))}


def flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Returns the values inside nested objects with their dotted names."""
    if not isinstance(value, dict):
        return [(prefix, value)]
    rows = []
    for name, item in value.items():
        rows += flat(item, f"{prefix}.{name}" if prefix else str(name))
    return rows


def plain(value: Any) -> str:
    """Writes any JSON value in a table."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {plain(item)}" for name, item in value.items())
    return number(value)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
