"""What was found, counted and told."""

from msjoe_jax.video.findings import Findings


def test_kinds_are_counted_and_told_once():
    findings = Findings()
    assert findings.losses == 0 and findings.sentences == []
    findings.add("damaged", 2)
    findings.add("damaged")
    findings.note("tone_mapped")
    findings.note("tone_mapped")
    assert dict(findings.counts) == {"damaged": 3, "tone_mapped": 1}
    assert findings.losses == 3  # a change of colours costs nothing
    damaged, mapped = findings.sentences
    assert damaged.startswith("3 times") and "HDR" in mapped
