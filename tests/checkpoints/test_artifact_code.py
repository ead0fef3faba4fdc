"""What a stored model may import and be called with, and by what it is allowed more (correctness 91)."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.contracts import make_contract
from ununennium.checkpoints.artifact import load_artifact, write_artifact
from ununennium.checkpoints.artifact_code import build_from_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.errors import ConfigError
from ununennium.importing import ALLOWED_IMPORTS
from ununennium.workers import smoke_test as smoke

OWN = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("imported").touch()

class Net(nn.Module):
    def __init__(self, in_channels, num_classes, weights_file=None, backbone="nvidia/mit-b0", **options):
        super().__init__()
        self.head = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, image):
        return self.head(image)

class Newer(Net):
    pass

def make(in_channels, num_classes):
    return Net(in_channels, num_classes)
"""
COUNTS = {"in_channels": 3, "num_classes": 2}


@pytest.fixture(autouse=True)
def no_list(monkeypatch):
    monkeypatch.delenv(ALLOWED_IMPORTS, raising=False)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user's own, which leaves a mark when it is imported; returns that mark."""
    (tmp_path / "team_nets").mkdir()
    (tmp_path / "team_nets" / "__init__.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "team_nets" / "imported"
    sys.modules.pop("team_nets", None)


def build(target: str, kwargs: dict[str, Any] | None = None, trusted: Any = ()) -> Any:
    return build_from_artifact(target, kwargs or {}, field="contract.model", trusted=trusted, **COUNTS)


def named(target: str, **kwargs: Any) -> Any:
    return SimpleNamespace(target=target, kwargs=kwargs)


@pytest.mark.parametrize(
    "target",
    [
        *("subprocess:run", "subprocess.run", "os:system", "builtins:eval", "builtins:exec", "runpy:run_path"),
        *("torch:load", "torch.hub:load", "torch.jit:load", "torch.utils.cpp_extension:load", "pickle:loads"),
        *("ununennium.models:os", "ununennium.models:torch.hub.load", "ununennium.models:UNet.forward"),
        *("ununennium.models:UNet.__init__.__globals__", "ununennium.models:UNet.__class__", "torch.nn:Module.__new__"),
        *("torchvision.os:system", "torchvision:os.system", "torchvision:models.os", "torchvision.io:read_file"),
        *("torchvision.datasets.utils:download_url", "torchvision:set_image_backend", "timm.models:load_checkpoint"),
        *("timm.models:load_state_dict_from_hf", "timm.models.hub:download_cached_file", "timm.utils.model:os"),
        *("segmentation_models_pytorch:from_pretrained", "segmentation_models_pytorch:Unet.from_pretrained"),
        *("ununennium.importing:instantiate", "ununennium.cli:app", "ununennium.checkpoints.artifact:load_artifact"),
        *("team_nets:Net", "team_nets:make", "ununennium.modelsevil:UNet", "torch.nnx:Linear", "torchvision2:Net"),
        *("", ":", "os", "ununennium.models:", ":UNet", "ununennium.models:UNet()", "..os:system", "a b:c"),
        *("torchvision.__main__:x", "torch.nn.functional:handle_torch_function", "torch.nn.init:torch.load"),
    ],
)
def test_code_that_a_stored_model_may_not_run_is_refused_with_the_remedy(target, own):
    """correctness 91: by its own name, by way of what an allowed module has imported, by an attribute of a class."""
    with pytest.raises(ConfigError) as caught:
        build(target, {"args": ["touch", "ran"]})
    assert str(caught.value).startswith("contract.model = ")
    assert any(word in str(caught.value) for word in (ALLOWED_IMPORTS, "import path", "no attribute", "imported"))
    assert not own.exists(), "it was imported"


@pytest.mark.parametrize(
    "kwargs",
    [
        *(
            {"encoder_weights": "https://evil.example/w"},
            {"encoder": "hf-hub:evil/net"},
            {"trust_remote_code": True},
        ),
        *({"checkpoint_path": "weights"}, {"pretrained": "/tmp/w.pth"}, {"pretrained": "w.pth"}, {"encoder": "~/w"}),
        *({"pretrained_cfg": {"file": "w"}}, {"pretrained_cfg_overlay": {"url": "w"}}, {"x": [{"y": ["s3://b/k"]}]}),
        *({"act": {"target": "os:system"}}, {"act": {"_target_": "os.system"}}, {"act": {"class_path": "x.Y"}}),
        *({"act": "os:system"}, {"act": "os.system"}, {"act": "torch.hub.load"}, {"cache_dir": "x"}, {"norm": "../x"}),
        *({"target": "os"}, {"files": ["a", "b"]}, {"model": {"code": {"trust_remote_code": 1}}}, {"w": "C:\\x"}),
        {"deep": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]},
    ],
)
@pytest.mark.parametrize("target", ["ununennium.models:zoo", "timm:create_model", "torch.nn:Conv2d"])
def test_arguments_that_name_files_urls_or_code_are_refused(target, kwargs):
    """correctness 91: at any depth; nothing is built."""
    with pytest.raises(ConfigError, match=rf"contract\.model\.kwargs\.{next(iter(kwargs))}.*{ALLOWED_IMPORTS}"):
        build(target, kwargs)


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("ununennium.models:UNet", {"base_channels": 2, "depth": 2}),
        ("ununennium.models.UNet", {"base_channels": 2, "depth": 2}),
        ("torch.nn:Conv2d", {"out_channels": 2, "kernel_size": 1}),
        ("ununennium.models:zoo", {"architecture": "Unet", "encoder": "resnet18", "pretrained": True}),
        ("segmentation_models_pytorch:Unet", {"encoder_name": "resnet18", "encoder_weights": "imagenet", "classes": 2,
                                              "decoder_channels": [32, 16, 16, 8, 8]}),
        ("segmentation_models_pytorch:create_model", {"arch": "fpn", "encoder_name": "tu-resnet18.a1_in1k",
                                                      "encoder_weights": "imagenet", "classes": 2}),
        ("timm:create_model", {"model_name": "resnet18.a1_in1k", "in_chans": 4, "drop_path_rate": 0.1}),
        ("timm.models:resnet18", {"pretrained": True}),
        ("torchvision.models:resnet18", {"weights": "DEFAULT"}),
        ("torchvision.models:get_model", {"name": "resnet18", "weights": "IMAGENET1K_V1"}),
        ("torchvision.models.segmentation:fcn_resnet50", {"aux_loss": False}),
        ("torchvision.models:get_model", {"name": "LRASPP_mobilenet_v3_large"}),
        ("segmentation_models_pytorch:Unet", {"encoder_name": "resnet18"}),
        ("segmentation_models_pytorch:create_model", {"arch": "unet", "encoder_name": "resnet18"}),
        ("torchvision.models:ResNet", {"block": None}),
    ],
)  # fmt: skip
def test_models_of_the_known_packages_are_built_without_fetching_anything(target, kwargs, monkeypatch):
    """correctness 91: classes of nn.Module, and the factories that a package lists."""
    import urllib.request

    for name in ("http_proxy", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("weights were fetched"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if target.endswith("ResNet"):
        with pytest.raises(Exception, match=r"block|NoneType"):  # the class may be named; what it is given is no block
            build(target, kwargs)
        return
    assert isinstance(build(target, kwargs), nn.Module)


def test_code_of_ones_own_is_allowed_by_the_own_configuration(own):
    """correctness 91: the very object, or an nn.Module class of its package; nothing else."""
    assert build("team_nets:Net", {}, [named("team_nets:Net")]).head.out_channels == 2
    assert build("team_nets:make", {}, [named("team_nets:make")]).head.out_channels == 2
    assert build("team_nets:Net", {}, [named("team_nets:Newer")]).head.out_channels == 2
    for target in ("team_nets:make", "team_nets:Path", "os:system"):
        with pytest.raises(ConfigError, match=r"stored model may not|does not run here"):
            build(target, {}, [named("team_nets:Net")])


def test_a_configuration_that_names_a_package_of_torch_opens_no_other_function_of_it():
    for target in ("torch:load", "torch.hub:load", "torchvision.io:read_file"):
        with pytest.raises(ConfigError):
            build(target, {"f": "x"}, [named("torch.nn:Conv2d"), named("torchvision.models:resnet18")])


def test_files_are_allowed_by_a_configuration_with_the_same(own):
    file = {"weights_file": "/data/w.pt"}
    assert build("team_nets:Net", file, [named("team_nets:Net", **file)])
    with pytest.raises(ConfigError, match=r"contract\.model\.kwargs\.weights_file = '/data/w\.pt'"):
        build("team_nets:Net", file, [named("team_nets:Net", weights_file="/data/another.pt")])


def test_code_of_ones_own_is_allowed_by_the_environment(own, monkeypatch):
    """correctness 91: a package; or one object with whatever arguments."""
    monkeypatch.setenv(ALLOWED_IMPORTS, "team_nets")
    assert build("team_nets:make").head.out_channels == 2
    assert build("team_nets:Net", {"backbone": "nvidia/mit-b1"}).head.out_channels == 2
    assert build("ununennium.models:UNet"), "what every stored model may name stays allowed"
    for kwargs in ({"weights_file": "w"}, {"x": "http://evil.example/x"}, {"trust_remote_code": True}):
        with pytest.raises(ConfigError, match=ALLOWED_IMPORTS):
            build("team_nets:Net", kwargs)
    for target in ("team_nets:Path", "subprocess:run"):
        with pytest.raises(ConfigError, match=ALLOWED_IMPORTS):
            build(target)
    monkeypatch.setenv(ALLOWED_IMPORTS, "team_nets:Net")
    assert build("team_nets:Net", {"weights_file": "/data/w.pt"}).head.out_channels == 2
    with pytest.raises(ConfigError, match=ALLOWED_IMPORTS):
        build("team_nets:make")


def test_an_empty_list_allows_nothing(monkeypatch):
    monkeypatch.setenv(ALLOWED_IMPORTS, "")
    with pytest.raises(ConfigError, match=ALLOWED_IMPORTS):
        build("ununennium.models:UNet")


def test_a_list_of_the_environment_binds_what_the_configuration_names(own, monkeypatch):
    monkeypatch.setenv(ALLOWED_IMPORTS, "ununennium.models")
    with pytest.raises(ConfigError, match="code of team_nets does not run here"):
        build("team_nets:Net", {}, [named("team_nets:Net")])


def stored(tmp_path: Any, target: str) -> str:
    """A version in a registry that names ``target``; returns its URL."""
    model = {"target": target, "kwargs": {}, **COUNTS}
    contract = make_contract(model=model, bands=[1, 2, 3], statistics={"mean": [0.0] * 3, "std": [1.0] * 3}, run_id="r")
    head = nn.Conv2d(3, 2, 1)
    write_artifact(tmp_path / "artifact", {"head.weight": head.weight, "head.bias": head.bias}, contract)
    registry = Registry(str(tmp_path / "storage"), "roofs")
    return registry.version_url(registry.add_version(tmp_path / "artifact"))


def test_a_model_of_ones_own_is_promoted_loaded_and_smoke_tested_with_the_own_configuration(own, tmp_path, atlanta):
    """correctness 91: and refused, without an import, where nobody vouches for it."""
    from safetensors.torch import save_file

    from ununennium.config import RunConfig
    from ununennium.runs.directory import RunDirectory

    url = stored(tmp_path, "team_nets:Net")
    with pytest.raises(ConfigError, match=rf"contract\.model = 'team_nets:Net'.*add it to {ALLOWED_IMPORTS}"):
        load_artifact(url)
    assert not own.exists()
    chip = torch.randn(1, 3, 8, 8)
    model, _ = load_artifact(url, trusted=[named("team_nets:Net")])
    save_file({"chip": chip, "logits": model(chip).detach()}, str(tmp_path / "probe"))
    settings = [f"storage={tmp_path}/storage", "model={target: 'team_nets:Net'}"]
    run = RunDirectory.create(RunConfig.load(atlanta.parent / "run.yaml", settings))
    answer = tmp_path / "answer.json"
    for more, passed in (([], False), ([str(run.run_file)], True)):
        assert smoke.main([url, str(tmp_path / "probe"), str(answer), *more]) == 0
        assert json.loads(answer.read_text())["passed"] is passed
