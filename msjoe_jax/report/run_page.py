"""The page of a run: how its trainings went, what they cost, what came out."""

import collections
import statistics
from collections.abc import Iterator, Mapping, Sequence

from msjoe_jax.report import charts
from msjoe_jax.report.charts import Row, Series, curves, figure, stacked_rows, thinned
from msjoe_jax.report.checked import Checked
from msjoe_jax.report.evaluation_page import (
    accuracy_figure,
    flat,
    interval_text,
    number,
    plain,
    sections,
)
from msjoe_jax.report.look_section import STYLE as LOOK_STYLE
from msjoe_jax.report.page import Html, count, document, joined, markup, paragraph, section, table
from msjoe_jax.report.run_folder import TABLE, Run, Training
from msjoe_jax.report.scale import scale_of

SCORE = "joint"  # the arm of a validation by which the best is chosen
PARTS = ("reason", "select", "answer", "joint_step", "input")  # of an update, in their order
WHOLE, ROLLOUT = "time/update_s", "time/rollout_s"  # of an update, and a sum of its parts
MOST_CURVES = 10  # of one figure
# Title of a figure, and which metrics it has.
FIGURES = (
    ("Reward", ("reward",)),
    ("Parts of the reward", ("rewards/",)),
    ("Entropies", ("entropy", "entropy/", "sampler/entropy")),
    ("KL to the start", ("kl", "kl/", "sampler/kl")),
    ("Groups of equal rewards", ("frac_",)),
    ("Norms of gradients", ("grad_norm/",)),
    ("Tokens a reply", ("completions/mean_length", "completions/query_", "completions/answer_")),
)


def render(run: Run, labels: Mapping[str, str], questions: Sequence[Html] = ()) -> str:
    """Renders the page as HTML.

    Args:
      run: the run.
      labels: of the arms of validations.
      questions: sections of the questions that are shown.
    """
    phases = ", ".join(run.config.get("phases") or ())
    facts = f"phases {phases} · seed {run.config.get('seed', '–')}"
    head = Html(
        f"<header><div class=facts>msjoe_jax report</div><h1>Run {markup(run.folder)}</h1></header>"
    )
    body = [charts.definitions(), head, paragraph(facts)]
    if run.table is not None:
        body.append(_table(Checked(run.table, f"{run.folder}/{TABLE}")))
    for training in run.trainings:
        body += _training(training, labels)
    body += questions
    if run.evaluation is not None:
        body += sections(run.evaluation)
    body.append(_config(run))
    return document(f"Run {run.folder}", body, charts.STYLE + LOOK_STYLE)


def _table(result: Checked) -> Html:
    rows, cells = [], []
    arms = result.inner("arms")
    for place, name in enumerate(arms.row):
        row = arms.inner(name)
        accuracy, ends = row.number("accuracy", None), row.interval("ci95")
        minus = row.inner("joint_minus", {})
        difference = minus.number("difference", None)
        label = row.text("label", name)
        rows.append(Row(label, accuracy, ends, number(accuracy), place))
        cells.append(
            (
                label,
                number(row.whole("questions", None)),
                number(accuracy),
                interval_text(ends),
                number(row.number("valid", None)),
                "–" if difference is None else f"{difference:+.3f}",
                interval_text(minus.interval("ci95"), "+"),
            )
        )
    head = ("frames chosen by", "questions", "accuracy", "95 %", "valid replies")
    listed = table((*head, "joint minus this", "95 %, paired"), cells)
    dropped = result.inner("dropped", {}).whole("count", 0)
    note = f"{count(dropped, 'question')} dropped under every arm." if dropped else ""
    drawn = accuracy_figure(rows, "A dot is the accuracy, its whisker the 95 % interval.")
    inner = joined([drawn, listed, paragraph(note) if note else ""])
    return section("Held-out questions", "the table of the run", inner)


def _training(training: Training, labels: Mapping[str, str]) -> Iterator[Html]:
    steps = [row["step"] for row in training.metrics]
    text = f"{count(len(steps), 'row')} of metrics, to update {max(steps, default=0)}"
    if training.validations:
        yield _validations(training, labels)
    figures = [_figure(training, title, starts) for title, starts in FIGURES]
    drawn = joined(one for one in figures if one)
    yield section(
        f"{training.name}: rewards, entropies, gradients",
        text,
        Html(f'<div class="figures">{drawn}</div>') if drawn else "No metrics were logged.",
    )
    yield _times(training)
    yield _dropped(training)


def _validations(training: Training, labels: Mapping[str, str]) -> Html:
    rows = training.validations
    arms = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name != "step" and isinstance(rows[0].get(name), int | float)
    ]
    series = [
        Series(
            labels.get(arm, arm),
            thinned([(row["step"], row[arm]) for row in rows if _is_number(row.get(arm))])[0],
            mark=place,
        )
        for place, arm in enumerate(arms)
    ]
    later = [row for row in rows if row["step"] > 0 and _is_number(row.get(SCORE))]
    best = max(later, key=lambda row: row[SCORE], default=None)
    at = (best["step"], f"best: update {best['step']}, {best[SCORE]:.3f}") if best else None
    x = scale_of([row["step"] for row in rows])
    y = scale_of([value for one in series for _, value in one.points])
    drawn = curves(series, ("update", x), ("accuracy on the validation split", y), at=at)
    head = ("update", *(labels.get(arm, arm) for arm in arms), "valid replies")
    shown = [rows[0], *([best] if best and best is not rows[0] else [])]
    shown += [rows[-1]] if not any(rows[-1] is row for row in shown) else []
    cells = [(row["step"], *(number(row.get(arm)) for arm in arms), _valid(row)) for row in shown]
    listed = table(head, sorted(cells))
    text = "First, best and last validation; all of them are in validation.jsonl."
    inner = joined([figure(drawn, ""), listed, paragraph(text)])
    return section(f"{training.name}: validation", "accuracy by arm, as rewards grade", inner)


def _valid(row: Mapping[str, object]) -> str:
    valid = row.get("valid")
    return number(valid.get(SCORE)) if isinstance(valid, dict) else "–"


def _figure(training: Training, title: str, starts: Sequence[str]) -> Html:
    names = [
        name
        for name in training.names()
        if any(name == start or (start[-1] in "/_" and name.startswith(start)) for start in starts)
    ]
    series: list[Series] = []
    size = 1
    for name in names[:MOST_CURVES]:
        points, size = thinned(training.curve(name))
        if points:
            series.append(Series(name, points, mark=len(series)))
    if not series:
        return Html("")
    x = scale_of([value for one in series for value, _ in one.points])
    y = scale_of([value for one in series for _, value in one.points])
    notes = [f"a point is the mean of {size} updates"] if size > 1 else []
    if len(names) > MOST_CURVES:
        notes.append(f"{MOST_CURVES} of {len(names)} metrics")
    drawn = curves(series, ("update", x), ("", y), height=180)
    return figure(joined([Html(f"<h3>{markup(title)}</h3>"), drawn]), "; ".join(notes), title)


def _times(training: Training) -> Html:
    names = [name for name in training.names() if name.startswith("time/")]
    known = [f"time/{part}_s" for part in PARTS if f"time/{part}_s" in names]
    parts = [*known, *(name for name in names if name not in (*known, WHOLE, ROLLOUT))]
    if WHOLE not in names:
        return Html("")
    values = {name: [value for _, value in training.curve(name)] for name in names}
    medians = [statistics.median(values[name]) for name in parts]
    rest = max(0.0, statistics.median(values[WHOLE]) - sum(medians))
    texts = [name.removeprefix("time/").removesuffix("_s") for name in parts]
    drawn = stacked_rows(
        ["an update"], [*texts, "the rest"], [[*medians, rest]], "seconds, medians"
    )
    cells = [
        (
            name.removeprefix("time/").removesuffix("_s"),
            number(statistics.median(values[name])),
            number(statistics.fmean(values[name])),
            number(sorted(values[name])[int(0.95 * (len(values[name]) - 1))]),
        )
        for name in [*parts, *(name for name in (ROLLOUT, WHOLE) if name in names)]
    ]
    listed = table(("seconds of an update", "median", "mean", "95th percentile"), cells)
    last = training.metrics[-1]
    process = [
        (name.removeprefix("goodput/"), number(value))
        for name, value in last.items()
        if name.startswith("goodput/")
    ]
    inner = [figure(drawn, "The rest: the host worked, or the device waited."), listed]
    if process:
        inner.append(table(("of the process, at the last update", ""), process))
    return section(f"{training.name}: time", "an update, by part", joined(inner))


def _dropped(training: Training) -> Html:
    reasons = collections.Counter(
        str(row.get("error", "no reason")).partition(":")[0] for row in training.dropped
    )
    different = {row.get("id") for row in training.dropped}
    if not reasons:
        return section(f"{training.name}: dropped questions", "", "None was dropped.")
    text = f"{count(len(different), 'different question')}, {count(len(training.dropped), 'time')}"
    rows = [(reason, number(times)) for reason, times in reasons.most_common()]
    return section(f"{training.name}: dropped questions", text, table(("reason", "times"), rows))


def _config(run: Run) -> Html:
    rows = [(name, plain(value)) for name, value in flat(run.config)]
    parts: list[object] = [table(("field", "value"), rows, "texts")]
    if run.changes:
        names = ("time", "field", "was", "is", "after")
        cells = [[plain(row.get(name)) for name in names] for row in run.changes]
        parts = [Html("<h3>changed since the run began</h3>"), table(names, cells, "texts"), *parts]
    return section("Config", "all of it", joined(parts))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
