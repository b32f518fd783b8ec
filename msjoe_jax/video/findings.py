"""What was met while a video was decoded, counted by kind and told in sentences."""

import collections

# How each kind is told; the kinds of LOSSES cost frames or times, the others are news.
SENTENCES = {
    "damaged": "{n} times damage was met; frames up to the next key frame are left out",
    "lost": "{n} good frames are left out, since they follow from damaged ones",
    "discontinuities": "the clock of the file jumps {n} times; the parts are joined",
    "false_stamps": "{n} timestamps are false; the frames stand at the next free place",
    "disordered": "{n} frames come no later than the frame before them and are left out",
    "missing": "about {n} frames that the file promises are not there",
    "unread": "the last {n} bytes are another file that is joined to this one, and are not read",
    "assumed_rate": "the file states no frame rate; 25 a second are assumed",
    "interlaced": "{n} frames are interlaced and left as they are",
    "resized": "{n} frames have another size than the first and are fitted into it",
    "turned": "the picture stands at an angle that is no quarter turn; the nearest is used",
    "tone_mapped": "HDR colours are mapped to standard range",
    "transparent": "transparent parts are shown on black",
}
LOSSES = ("damaged", "discontinuities", "false_stamps", "disordered")


class Findings:
    """Counts by kind, of SENTENCES."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, number: int = 1) -> None:
        """Counts one or more of a kind."""
        assert kind in SENTENCES, kind
        self.counts[kind] += number

    def note(self, kind: str) -> None:
        """Counts a kind once for the whole video."""
        assert kind in SENTENCES, kind
        self.counts[kind] = 1

    @property
    def losses(self) -> int:
        """How many of the kinds that cost frames or times."""
        return sum(self.counts[kind] for kind in LOSSES)

    @property
    def sentences(self) -> list[str]:
        """One sentence for each kind that was met."""
        return [
            text.format(n=self.counts[kind])
            for kind, text in SENTENCES.items()
            if self.counts[kind]
        ]
