"""What a question file holds: counts, categories, options, answers, difficulty, evidence."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from string import ascii_uppercase

from msjoe_jax.data.evidence import has_evidence
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.report.inspect_records import SHOWN, durations
from msjoe_jax.report.inspection import Bars, Fact, Facts, Listing, Part

TENTHS = 10  # bars of the histogram of difficulty
BEYOND = 1.0  # seconds by which evidence may end after its video


def inspect_questions(
    file: str,
    questions: Sequence[Question],
    groups: Callable[[Question], Mapping[str, str]],
    reader: RecordReader | None = None,
) -> list[Part]:
    """Counts what a file holds.

    Args:
      file: its name.
      questions: all of it.
      groups: the categories of a question, by their kind.
      reader: the records of their videos; None: they are not looked at.
    """
    videos = collections.Counter(question.video for question in questions)
    same = collections.Counter((q.video, q.question, q.options) for q in questions)
    rates = [q.difficulty for q in questions if q.difficulty is not None]
    rows = [
        Fact("file", file),
        Fact("questions", len(questions)),
        Fact("videos", len(videos)),
        Fact("most questions of a video", max(videos.values(), default=0)),
        Fact("asked twice of a video", sum(n - 1 for n in same.values())),
        Fact("without a known answer", sum(q.answer is None for q in questions)),
        Fact("with evidence", sum(has_evidence(q) for q in questions)),
        Fact("with subtitles", sum(bool(q.subtitles) for q in questions)),
        Fact("with a hash of the video", sum(bool(q.content) for q in questions)),
        Fact("with a measured difficulty", len(rates)),
        Fact("mean pass rate of the base model", sum(rates) / len(rates) if rates else None),
    ]
    parts: list[Part] = [Facts("questions", rows)]
    if rates:
        parts.append(difficulty(rates, len(questions)))
    letters = collections.Counter(q.letter or "unknown" for q in questions)
    parts.append(Bars("right answers", [(x, letters[x]) for x in (*ascii_uppercase, "unknown")
                                        if letters[x]]))  # fmt: skip
    numbers = collections.Counter(len(q.options) for q in questions)
    parts.append(Bars("numbers of options", [(str(n), numbers[n]) for n in sorted(numbers)]))
    parts += _categories([groups(question) for question in questions])
    if reader is not None:
        parts += _in_records(questions, reader)
    return parts


def difficulty(rates: Iterable[float], total: int) -> Bars:
    """Returns the histogram of pass rates: below .1, .1 to below .2, …, .9 to below 1, and 1."""
    counts = collections.Counter(min(int(rate * TENTHS + 1e-9), TENTHS) for rate in rates)
    names = [f"{k / TENTHS:.1f} to {(k + 1) / TENTHS:.1f}" for k in range(TENTHS)]
    bars = [(name, counts[k]) for k, name in enumerate([*names, "1.0, always right"])]
    missing = total - sum(counts.values())
    note = f"not measured: {missing:,}" if missing else ""
    return Bars("difficulty: pass rates of the base model", bars, note)


def _categories(rows: Sequence[Mapping[str, str]]) -> list[Part]:
    """Bars for each kind of category."""
    kinds: dict[str, collections.Counter[str]] = {}
    for row in rows:
        for kind, name in row.items():
            kinds.setdefault(kind, collections.Counter())[name] += 1
    parts: list[Part] = []
    for kind, names in kinds.items():
        counts, missing = names.most_common(), len(rows) - names.total()
        notes = [f"without one: {missing:,}"] if missing else []
        notes += [f"and {len(counts) - SHOWN} more names"] if len(counts) > SHOWN else []
        parts.append(Bars(f"category {kind}", counts[:SHOWN], "; ".join(notes)))
    return parts


def _in_records(questions: Sequence[Question], reader: RecordReader) -> list[Part]:
    """What the records have to say of the questions: which cannot be asked, and for how long."""
    known = set(reader.ids)
    infos = {i.id: i for i in reader.infos(q.video for q in questions if q.video in known)}
    dropped = [
        (q.id, q.video, "its record is damaged" if q.video in known else "no such video")
        for q in questions
        if q.video not in infos
    ]
    beyond = [
        (q.id, q.video, f"evidence to {end:g} s of {infos[q.video].duration:g} s")
        for q in questions
        if q.video in infos
        for _, end in q.evidence[-1:]
        if end > infos[q.video].duration + BEYOND
    ]
    rows = [
        Fact("records", str(reader.directory)),
        Fact("questions that can be asked", len(questions) - len(dropped)),
        Fact("dropped", len(dropped)),
        Fact("with evidence after the video's end", len(beyond)),
        Fact("videos that no question asks about", len(known - {q.video for q in questions})),
    ]
    parts: list[Part] = [Facts("in the records", rows)]
    asked = [infos[question.video] for question in questions if question.video in infos]
    bars = durations(asked)
    parts.append(Bars("questions by duration of their video", bars.counts))
    for title, lines in (("dropped questions", dropped), ("evidence that does not fit", beyond)):
        if lines:
            more = max(0, len(lines) - SHOWN)
            parts.append(Listing(title, ("question", "video", "why"), lines[:SHOWN], more))
    return parts
