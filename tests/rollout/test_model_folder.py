"""Model folders: what is written comes back, and what is of another version is named."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.fields import plain
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout import model_folder
from msjoe_jax.rollout.model_folder import (
    begin_model_folder,
    check_folder,
    load_model_folder,
    save_model_folder,
)
from msjoe_jax.rollout.system import NAMES, load_tokenizers, make_system
from msjoe_jax.runtime.checkpoint import load_meta
from msjoe_jax.runtime.checkpoint_folders import LAST_FILE
from tests.support.tiny import (
    TINY_FRAMES,
    TINY_PROMPT,
    tiny_model_folder,
    tiny_params,
    tiny_settings,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def test_what_is_written_comes_back(folder):
    made = load_model_folder(folder)
    settings = tiny_settings(folder.parent)
    parts = {"frames": plain(TINY_FRAMES), "prompt": plain(TINY_PROMPT)}
    assert made.settings == plain(settings) | parts
    stored = json.loads(json.dumps(plain(settings) | parts))  # JSON has lists for tuples
    assert load_meta(str(folder / "params")) == stored
    system = make_system(settings, load_tokenizers(settings))
    assert made.system.mllm_config == system.mllm_config
    assert made.system.clip_config == system.clip_config
    assert made.system.sampler_config == system.sampler_config
    want = tiny_params(system.abstract)
    assert {n: fingerprint(p) for n, p in made.params.items()} == {
        n: fingerprint(want[n]) for n in NAMES
    }
    assert made.text is not None and made.text.prompt == TINY_PROMPT
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model", "tokenizer.json"]


def test_a_part_of_it(folder):
    made = load_model_folder(folder, ["mllm"], "bfloat16")
    assert list(made.params) == ["mllm"]
    assert {x.dtype for x in jax.tree.leaves(made.params)} == {jnp.dtype(jnp.bfloat16)}
    whole = load_model_folder(folder, ["mllm"]).params
    for a, b in zip(*map(jax.tree.leaves, (made.params, whole)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b.astype(jnp.bfloat16)))
    assert made.settings["mllm"]["dtype"] == "float32"  # as it is stored


def test_files_of_the_mllm(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    side = tmp_path / "copy" / "mllm"
    (side / "generation_config.json").write_text('{"eos_token_id": 3}')
    (side / "vocab.json").write_text("[]")
    made = load_model_folder(tmp_path / "copy", ["mllm"])
    assert made.files is not None and made.files.generation.end_ids == (3,)
    (side / "generation_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"generation_config\.json: not a JSON object"):
        load_model_folder(tmp_path / "copy", ["mllm"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"world": {}}, r"model: made by another version \(unknown part 'world'\)"),
        ({"mllm": {"size": "tiny", "heads": 3}}, r"model: made by .*mllm\.heads: there is no such"),
        ({"frames": {"key": 0}}, r"model: made by another version \(frames\.key=0 must be at le"),
        ({"prompt": {"think": "no"}}, r"model: .*prompt\.think=no must be True or False"),
    ],
)
def test_settings_of_another_version_are_refused(folder, monkeypatch, change, words):
    meta = load_meta(str(folder / "params"))
    monkeypatch.setattr(model_folder, "load_meta", lambda _: {**meta, **change})
    with pytest.raises(UserError, match=words) as caught:
        load_model_folder(folder, ["sampler"])
    assert "\n" not in str(caught.value)


def test_fields_that_were_added_since_have_their_defaults(folder, monkeypatch):
    meta = load_meta(str(folder / "params"))
    del meta["mllm"]["log_prob_chunk"], meta["frames"]
    monkeypatch.setattr(model_folder, "load_meta", lambda _: {**meta, "trained": {"stages": []}})
    made = load_model_folder(folder, ["sampler"])
    assert made.settings["mllm"]["log_prob_chunk"] == 4096
    assert made.settings["frames"]["candidates"] == 3600


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        check_folder(tmp_path, [])
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half" / "clip" / "config.json").unlink()
    check_folder(tmp_path / "half", ["mllm", "sampler"])
    with pytest.raises(UserError, match=r"half: holds no clip \(clip/config\.json is missing\)"):
        load_model_folder(tmp_path / "half")
    (tmp_path / "half" / "params" / LAST_FILE).unlink()  # a copy that was interrupted
    with pytest.raises(UserError, match="params was not written to its end"):
        check_folder(tmp_path / "half", ["mllm"])


@pytest.mark.parametrize("part", ["mllm", "clip"])
def test_a_tokenizer_beyond_the_vocabulary_is_refused(folder, tmp_path, part):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / part / "tokenizer.json"
    content = json.loads(file.read_text())
    rows = len(content["model"]["vocab"])
    content["model"]["vocab"]["surplus"] = rows
    file.write_text(json.dumps(content))
    words = rf"{part}/tokenizer\.json: the largest id is {rows} \('surplus'\), and .* {rows} rows"
    with pytest.raises(UserError, match=words):
        load_model_folder(tmp_path / "copy", ["mllm"])


def test_a_whole_folder_is_left_and_half_a_one_replaced(folder, tmp_path):
    settings = tiny_settings(tmp_path)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    rest = {
        "settings": settings,
        "parts": {"trained": {"stages": ["warm_up"]}},
        "system": system,
        "tokenizers": tokenizers,
        "params": tiny_params(system.abstract),
    }
    (tmp_path / "out.partial" / "params").mkdir(parents=True)
    save_model_folder(tmp_path / "out", **rest)
    assert not (tmp_path / "out.partial").exists()
    assert load_meta(str(tmp_path / "out" / "params"))["trained"] == {"stages": ["warm_up"]}
    written = json.loads((tmp_path / "out" / "mllm" / "config.json").read_text())
    assert system.family.read_config(written) == system.mllm_config
    save_model_folder(tmp_path / "out", **{**rest, "parts": {}})
    assert "trained" in load_meta(str(tmp_path / "out" / "params"))


def test_a_folder_is_written_while_its_parameters_are_gone(tmp_path):
    settings = tiny_settings(tmp_path)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    params, out = tiny_params(system.abstract), tmp_path / "out"
    before = fingerprint(params["mllm"])
    end = begin_model_folder(
        out, settings=settings, parts={}, system=system, tokenizers=tokenizers, params=params
    )
    jax.tree.map(lambda leaf: leaf.delete(), params)
    assert not out.exists()
    end()
    assert fingerprint(load_model_folder(out).params["mllm"]) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out"]


def test_a_folder_of_other_inputs_is_replaced_with_a_line(tmp_path, capsys):
    settings = tiny_settings(tmp_path)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    params, out = tiny_params(system.abstract), tmp_path / "out"

    def save(change, **inputs):
        sampler = jax.tree.map(lambda x: x + change, params["sampler"])
        save_model_folder(
            out,
            settings=settings,
            parts={},
            system=system,
            tokenizers=tokenizers,
            params={**params, "sampler": sampler},
            inputs=inputs,
        )
        stored = load_model_folder(out, ["sampler"]).params["sampler"]["skip_scale"]
        return float(stored - params["sampler"]["skip_scale"]), capsys.readouterr().out

    assert save(1, weights="a") == (pytest.approx(1), "")
    assert save(2, weights="a") == (pytest.approx(1), "")
    line = f"{out}: made from other weights (was a, is b); made again\n"
    assert save(2, weights="b") == (pytest.approx(2), line)
    # Killed between the removal of the old folder and the naming of the new one.
    out.rename(tmp_path / "out.old")
    assert save(3, weights="b") == (pytest.approx(3), "")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out"]


@pytest.mark.soak
def test_half_a_folder_on_object_storage_is_none(tmp_path, bucket, monkeypatch):
    settings = tiny_settings(tmp_path)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    params, out = tiny_params(system.abstract), bucket / "run" / "out"

    def save(**inputs):
        save_model_folder(
            out,
            settings=settings,
            parts={},
            system=system,
            tokenizers=tokenizers,
            params=params,
            inputs=inputs,
        )

    save(weights="a")
    made = load_model_folder(out)
    assert fingerprint(made.params["sampler"]) == fingerprint(params["sampler"])
    assert made.text is not None
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "begin_params", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            save(weights="b")
    assert (out / "mllm" / "config.json").exists()
    with pytest.raises(UserError, match="no checkpoint there"):
        load_model_folder(out)
    save(weights="b")
    assert load_meta(out / "params")["inputs"] == {"weights": "b"}
    (out / "params" / LAST_FILE).unlink()  # a kill before the last file was written
    with pytest.raises(UserError, match="params was not written to its end"):
        check_folder(out, ["sampler"])
    save(weights="b")
    check_folder(out, NAMES)
