"""What is not read is refused in one line, with the command to run next."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from msjoe_jax.errors import UserError
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG, check_source
from tests.support.torch_stubs import declare_torchvision_ops


def refusal(source) -> str:
    with pytest.raises(UserError) as caught:
        check_source(source)
    (line,) = caught.value.lines
    return line


def folder(tmp_path, files: dict[str, bytes | dict], name: str = "model"):
    path = tmp_path / name
    path.mkdir(parents=True)
    for file, content in files.items():
        (path / file).parent.mkdir(exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (path / file).write_bytes(data)
    return path


def command(line: str) -> str:
    """The Python of the one-liner that a message names."""
    found = re.search(r'python -c "(.*)"', line)
    assert found is not None, line
    return found[1]


def test_what_is_read_passes(tmp_path):
    check_source(folder(tmp_path, {"model.safetensors": b"", "config.json": {}}))
    check_source(folder(tmp_path, {"model.safetensors.index.json": b""}, "shards"))
    check_source(folder(tmp_path, {ADAPTER_CONFIG: {}, ADAPTER: b""}, "adapter"))
    plain = {"quantization_config": None, "text_config": {"quantization_config": {}}}
    check_source(folder(tmp_path, {"model.safetensors": b"", "config.json": plain}, "null"))


def test_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from etils import epath

    line = refusal(epath.Path("Qwen/Qwen2.5-VL-3B-Instruct"))
    assert "`hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir=Qwen2.5-VL-3B-Instruct`" in line
    for name in ("nowhere", "../a/b", "/nowhere/at/all"):
        assert refusal(epath.Path(name)).endswith(": no such folder")


def test_files_in_place_of_folders(tmp_path):
    path = folder(tmp_path, {"model.safetensors": b"", "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf": b""})
    assert refusal(path / "model.safetensors").endswith(f"a file; name its folder, {path}")
    line = refusal(path / "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf")
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct " in line


@pytest.mark.parametrize(
    "name, plain",
    [
        ("Qwen2.5-VL-7B-Instruct-AWQ", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("Qwen2.5-VL-3B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("Qwen2.5-VL-3B-Instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("my-model-FP8-dynamic", "ORG/my-model"),
        ("my-model-quantized.w4a16", "ORG/my-model"),
    ],
)
@pytest.mark.parametrize("where", ["", "text_config"])
def test_quantised_weights(tmp_path, name, plain, where):
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    config = {where: quantised} if where else quantised
    line = refusal(folder(tmp_path, {"model.safetensors": b"", "config.json": config}, name))
    field = f"{where}.quantization_config" if where else "quantization_config"
    assert f"config.json: {field}.quant_method is 'awq'" in line
    assert f"`hf download {plain} --local-dir={plain.split('/')[1]}`" in line


def test_the_name_that_a_quantised_config_states(tmp_path):
    config = {"quantization_config": {"quant_method": "fp8"}, "_name_or_path": "Some/Model-FP8"}
    line = refusal(folder(tmp_path, {"config.json": config, "model.safetensors": b""}))
    assert "quant_method is 'fp8'" in line and "hf download Some/Model " in line


def test_other_files(tmp_path):
    line = refusal(folder(tmp_path, {"m-Q8_0.gguf": b"", "config.json": {}}, "Qwen2.5-VL-7B-GGUF"))
    assert (
        "m-Q8_0.gguf only; GGUF is not read" in line and "hf download Qwen/Qwen2.5-VL-7B " in line
    )
    line = refusal(folder(tmp_path, {"model.fp16.safetensors": b""}, "variant"))
    assert "has model.fp16.safetensors, and neither model.safetensors nor" in line
    files = {"checkpoint-5/adapter_model.safetensors": b"", "checkpoint-9/model.safetensors": b""}
    line = refusal(folder(tmp_path, files, "run"))
    assert "but in checkpoint-5, checkpoint-9; name one of those folders" in line
    named = {"config.json": {"transformers_weights": "a.safetensors"}, "a.safetensors": b""}
    assert "transformers_weights is 'a.safetensors'" in refusal(folder(tmp_path, named, "named"))


def test_what_a_training_leaves(tmp_path):
    """Its state is no model; its shards are merged by the tool that wrote them."""
    state = {"training_args.bin": b"", "optimizer.pt": b"", "config.json": {}}
    check_source(folder(tmp_path, state, "state"))  # reading then says that there are no weights
    line = refusal(folder(tmp_path, state | {"zero_to_fp32.py": b""}, "zero"))
    zero = tmp_path / "zero"
    assert f"`python {zero}/zero_to_fp32.py {zero} {zero}-merged --safe_serialization`" in line
    line = refusal(folder(tmp_path, state | {"pytorch_model_fsdp_0/x.distcp": b""}, "fsdp"))
    assert "`accelerate merge-weights " in line
    for name in ("quantize_config.json", "hf_quant_config.json"):
        files = {"config.json": {}, name: {}, "model.safetensors": b""}
        line = refusal(folder(tmp_path, files, f"Qwen2.5-VL-7B-Instruct-FP8/{name[:4]}"))
        assert f"{name}: quantised weights are not read" in line


def test_pickles_of_a_model_are_rewritten_by_the_line(tmp_path):
    """The command that the message names, run."""
    declare_torchvision_ops()
    from transformers import CLIPModel

    from tests.support.clip_oracle import config, hugging_face_model

    model = hugging_face_model(config(True))
    path = tmp_path / "clip"
    model.config.architectures = ["CLIPModel"]
    model.config.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    exec(command(refusal(path)), {})
    check_source(path)
    again = CLIPModel.from_pretrained(path).state_dict()
    for name, x in load_file(path / "model.safetensors").items():
        assert torch.equal(again[name], x) and torch.equal(model.state_dict()[name], x)


@pytest.mark.parametrize(
    "files, pickle, written",
    [
        ({ADAPTER_CONFIG: {}}, "adapter_model.bin", ADAPTER),
        (
            {"open_clip_config.json": {}},
            "open_clip_pytorch_model.bin",
            "open_clip_model.safetensors",
        ),
    ],
)
def test_pickles_of_tensors_are_rewritten_by_the_line(tmp_path, files, pickle, written):
    path = folder(tmp_path, files)
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3).T, "b": torch.zeros(())}
    torch.save(tensors, path / pickle)
    exec(command(refusal(path)), {})
    check_source(path)
    back = load_file(path / written)
    assert back.keys() == tensors.keys() and all(torch.equal(back[n], tensors[n]) for n in back)
    save_file(back, path / written)
    assert refusal(folder(tmp_path, {ADAPTER_CONFIG: {}}, "bare")).endswith(
        f"{ADAPTER_CONFIG} without {ADAPTER}"
    )
