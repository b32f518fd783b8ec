"""Configs by path and by name, in a checkout and in an installed copy."""

import pytest

from msjoe_jax import config_files
from msjoe_jax.config_files import config_file, load_config, shipped_configs


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "tiny.py"
    assert config_file("tiny").endswith("configs/tiny.py")
    assert config_file("configs/tiny.py:short").endswith("configs/tiny.py:short")
    assert config_file("ablations/rewards:info").endswith("configs/ablations/rewards.py:info")
    assert config_file("nothing.py") == "nothing.py"
    own.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(variant='none'):\n    return ConfigDict({'variant': variant})\n"
    )
    assert config_file("tiny.py") == "tiny.py"  # a file that is there goes first
    assert load_config(f"{own}:x").variant == "x" and load_config(str(own)).variant == "none"
    assert config_file("unknown") == "unknown" and config_file("no.py:x") == "no.py:x"
    with pytest.raises(OSError, match="unknown"):
        load_config("unknown")


def test_an_installed_copy_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").touch()
    folders = (tmp_path / "absent", tmp_path / "configs")
    monkeypatch.setattr(config_files, "FOLDERS", folders)
    assert shipped_configs() == ["mine"]
    assert config_file("mine") == str(tmp_path / "configs" / "mine.py")


@pytest.mark.parametrize("name", ["tiny", "joint_v4"])
def test_shipped(name):
    assert name in shipped_configs() and load_config(name).seed == 0
