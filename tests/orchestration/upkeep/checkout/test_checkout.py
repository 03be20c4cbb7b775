"""A checked-out checkpoint is the trained model, for transformers too; what is not to be had leaves nothing there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from assets.errors import HeadwaterError
from assets.tokenizer.encoding import encode_documents, load_tokenizer, token_dtype
from orchestration.config import Config, load_config
from orchestration.identity.catalog import read_catalog, segment
from orchestration.identity.digest import MANIFEST
from orchestration.store import open_store
from orchestration.store.contract import CorruptObjectError, PurgedObjectError, VersionedStore
from orchestration.upkeep.checkout import writing
from orchestration.upkeep.checkout.choosing import CheckoutError
from orchestration.upkeep.checkout.folder import copy_file
from orchestration.upkeep.checkout.writing import CheckedOut, checkout
from orchestration.upkeep.taken_down import record
from tests.end_to_end.harness import REPOSITORY, STAMP, Home
from tests.orchestration.store.lakefs import servers
from tests.shared_build import Built
from training.checkpoints.hf_export import load_weights
from training.contract.request import ModelShape
from training.model.llama import SeededTransformer, model_args

RUN = f"tiny@{STAMP}"
FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
FILES += ["tokenizer_config.json"]
TEXTS = (
    "Of all the words\tof tongue\n\n  and pen, 1234567 times: they're naïve.",
    "今天天气很好，我们去公园散步。价格是3.50元！",
    "中英 mixed 文本，with <|endoftext|> and <|pad|> spelt by a page, <|reserved_3|>",
    "مرحبا 👩‍👩‍👧 \u200b\u0000",
    "",
)


@pytest.fixture
def configured(built: Built, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("HEADWATER_TEST_PORT", str(built.home.port))
    return load_config(built.home.config)


def store_of(home: Home) -> VersionedStore:
    return open_store(str(home.state / "store.git"))


Checkout = Callable[..., CheckedOut]


@pytest.fixture
def take(built: Built, configured: Config) -> Checkout:
    """Checks out of the shared build."""
    return lambda subject, folder, **more: checkout(store_of(built.home), configured, subject, folder, **more)


def trained(store: VersionedStore, step: int, folder: Path) -> tuple[SeededTransformer, ModelShape]:
    """The model as the training program would go on with it: from its distributed checkpoint."""
    catalog = read_catalog(store)
    found = segment(store, catalog.commit, catalog.manifests["base_checkpoints", RUN])
    here = f"checkpoints/step-{step:08d}/"
    for name in [name for name in found.files if name.startswith(f"{here}dcp/")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.path(name), folder / name)
    shape = ModelShape(**json.loads(found.path(f"{here}complete.json").read_text())["identity"]["model"])
    model = SeededTransformer(model_args(shape))
    model.init_weights()
    model.load_state_dict(load_weights(folder / here / "dcp", shape), strict=False)
    return model.eval(), shape


def test_transformers_has_the_trained_model_and_our_tokenizer_with_one_line_each(built: Built, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "new" / "model"
    said = built.home.headwater("checkout", RUN, str(folder)).stdout
    assert f"{RUN}/12 (the last of its steps 1, 4, 8, 12) is in {folder}" in said
    assert sorted(path.name for path in folder.iterdir()) == FILES
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, shape = trained(store_of(built.home), 12, tmp_path / "dcp")
    tokens = torch.randint(0, shape.vocab_size, (2, shape.sequence_length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (ours(tokens) - model(tokens).logits).abs().max().item() < 1e-4
    published = load_tokenizer(folder / "tokenizer.json")
    for text, ids in zip(TEXTS, encode_documents(published, TEXTS, token_dtype(768)), strict=True):
        assert [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] == ids.tolist(), text
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.model_max_length == shape.sequence_length
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (0, 1)


def test_the_page_in_the_folder_has_the_card_and_code_that_runs(
    take: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take(f"{RUN}/8", tmp_path / "model")
    page = (tmp_path / "model/README.md").read_text("utf-8")
    assert page.startswith("---\nlibrary_name: transformers\n")
    assert "language:\n- en\n- zh\ntags:" in page
    assert f"# {RUN}, step 8\n" in page
    assert "its tables of the last checkpoint are of step 12" in page
    assert "\n## What this model is not\n" in page
    assert "**Note.**" not in page
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize(("subject", "step"), [(f"{RUN}/4", 4), (f"{RUN}/0012", 12), (RUN, 12), ("tiny", 12)])
def test_the_last_step_and_the_newest_run_are_meant_where_none_is_named(
    take: Checkout, tmp_path: Path, subject: str, step: int
) -> None:
    done = take(subject, tmp_path / "model")
    assert (done.run, done.step, done.steps) == (RUN, step, (1, 4, 8, 12))
    assert hashlib.sha256((tmp_path / "model/model.safetensors").read_bytes()).hexdigest() == done.weights_sha256


def test_the_same_checkpoint_is_the_same_folder(take: Checkout, tmp_path: Path) -> None:
    """Whatever the folder's name; and an empty folder may be there."""
    (tmp_path / "b" / "model").mkdir(parents=True)
    done = [take(f"{RUN}/1", tmp_path / place / "model") for place in "ab"]
    assert done[0].files == done[1].files
    for name in FILES:
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("subject", "rule"),
    [
        (f"{RUN}/5", "has no checkpoint of step '5'; it has the steps 1, 4, 8, 12"),
        (f"{RUN}/", "has no checkpoint of step ''"),
        (f"{RUN}/twelve", "has no checkpoint of step 'twelve'"),
        ("tiny@20250101T000000Z/4", f"no run with published checkpoints; there are {RUN}"),
        ("demo", f"'demo' is no run with published checkpoints; there are {RUN}"),
    ],
)
def test_what_is_not_published_is_refused_with_what_is(take: Checkout, tmp_path: Path, subject: str, rule: str) -> None:
    with pytest.raises(CheckoutError, match=re.escape(rule)):
        take(subject, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_left_alone(take: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, rule in (("full", "is not empty"), ("file", "is a file"), ("here", "is the current folder")):
        with pytest.raises(CheckoutError, match=rule):
            take(RUN, tmp_path / name)
    with pytest.raises(CheckoutError, match="cannot be written: "):
        take(RUN, tmp_path / "file" / "model")
    assert (tmp_path / "full/notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "here"]


def test_a_stale_checkpoint_is_refused_or_says_so(copy_of_built: Home, tmp_path: Path) -> None:
    copy_of_built.edit_recipe("tiny", "[probes]", "[probes]\nbatch_tokens = 2048")
    told = copy_of_built.headwater("checkout", RUN, str(tmp_path / "model"), expect=1)
    assert f"release_card[{RUN}] is stale (upstream probability_probes[{RUN}] is stale)" in told.stderr
    assert not (tmp_path / "model").exists()
    done = copy_of_built.json("checkout", RUN, str(tmp_path / "model"), "--allow-stale")
    assert done["step"] == 12
    (note,) = done["notes"]
    assert note.startswith(f"Stale when it was checked out: release_card[{RUN}] is stale")
    assert f"> **Note.** {note}\n" in (tmp_path / "model/README.md").read_text("utf-8")


def damage(store: VersionedStore, path: str) -> None:
    stored = store.local_path("main", path)
    stored.chmod(0o644)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)


def path_of(step: int, name: str) -> str:
    return f"training/base_checkpoints/{RUN}/checkpoints/step-{step:08d}/hf/{name}"


def test_damaged_weights_never_leave_the_store(copy_of_built: Home, configured: Config, tmp_path: Path) -> None:
    store = store_of(copy_of_built)
    damage(store, path_of(12, "model.safetensors"))
    with pytest.raises(CorruptObjectError, match=r"another SHA-256.*base_checkpoints is never made again"):
        checkout(store, configured, RUN, tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []
    checkout(store, configured, f"{RUN}/8", tmp_path / "out" / "model")


def test_what_was_taken_down_is_refused_and_what_learned_from_it_says_so(
    copy_of_built: Home, configured: Config, tmp_path: Path
) -> None:
    store = store_of(copy_of_built)
    weights = path_of(12, "model.safetensors")
    page = next(i for i in store.list("main", f"sources/raw_crawl/site@{STAMP}/") if i.path.endswith(".warc.gz"))
    for info in (store.stat("main", weights), page):
        put: dict[str, Any] = {
            f"takedowns/{info.sha256}.json": record("asked for", "2026-01-02T00:00:00Z", [info.path])
        }
        store.commit("main", put, message="Take down")
        store.purge([info.sha256], reason="asked for")
    with pytest.raises(PurgedObjectError, match=r"asked for.*--new-run` leads out"):
        checkout(store, configured, RUN, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    done = checkout(store, configured, f"{RUN}/8", tmp_path / "model")
    assert done.notes == (f"Something of site@{STAMP} was taken down since; the weights may remember it.",)


def test_the_tokenizer_is_that_of_the_run_though_main_has_another(
    copy_of_built: Home, configured: Config, take: Checkout, tmp_path: Path
) -> None:
    store = store_of(copy_of_built)
    manifest = json.loads(store.read_bytes("main", f"tokenizer/tokenizer/{MANIFEST}")) | {"version": "another"}
    other: dict[str, Any] = {f"tokenizer/tokenizer/{MANIFEST}": json.dumps(manifest).encode()}
    other["tokenizer/tokenizer/tokenizer.json"] = b"{}"
    store.commit("main", other, message="Another tokenizer")
    before, after = take(RUN, tmp_path / "before"), tmp_path / "after"
    checkout(store, configured, RUN, after, allow_stale=True)
    assert (after / "tokenizer.json").read_bytes() == (Path(before.folder) / "tokenizer.json").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestration.process.workplace import open_workplace
from orchestration.upkeep.checkout import writing
from orchestration.upkeep.checkout.folder import copy_file

def copied(store, place, target):
    if target.name == "tokenizer.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return copy_file(store, place, target)

writing.copy_file = copied
here = open_workplace()
writing.checkout(here.store, here.config, sys.argv[1], Path(sys.argv[2]))
"""


def test_killed_midway_leaves_no_half_folder_and_the_next_one_clears_up(
    built: Built, take: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    command = [sys.executable, "-c", KILLED, RUN, str(folder)]
    assert subprocess.run(command, env=built.home.env(), cwd=REPOSITORY).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".model.unfinished"]
    assert (tmp_path / ".model.unfinished/model.safetensors").is_file()

    def interrupted(store: VersionedStore, place: tuple[str, str], target: Path) -> str:
        if target.name == "config.json":
            raise KeyboardInterrupt
        return copy_file(store, place, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(writing, "copy_file", interrupted)
        take(RUN, folder)
    assert list(tmp_path.iterdir()) == []
    take(RUN, folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_two_at_a_time_do_not_mix(take: Checkout, tmp_path: Path) -> None:
    (tmp_path / ".model.unfinished").mkdir()
    handle = os.open(tmp_path / ".model.unfinished", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CheckoutError, match="another `headwater checkout` writes"):
        take(RUN, tmp_path / "model")
    os.close(handle)
    take(RUN, tmp_path / "model")


def test_a_full_disk_is_told_before_the_first_byte(
    take: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(HeadwaterError, match=r"needs 8\d\d,\d\d\d bytes, and .* has 1,000 free"):
        take(RUN, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # over HTTP
def test_from_lakefs_as_from_git(built: Built, configured: Config, take: Checkout, tmp_path: Path) -> None:
    servers.server_urls()
    ours, lakefs = store_of(built.home), servers.lakefs_store(tmp_path / "lake")
    needed = (f"/{MANIFEST}", "/checkpoints.parquet", "step-00000012/complete.json", "card.md", "card.json")
    needed += (*(f"step-00000012/hf/{name}" for name in FILES), *(f"tokenizer/tokenizer/{name}" for name in FILES))
    paths = [info.path for info in ours.list("main") if info.path.endswith(needed)]
    files: dict[str, Any] = {path: ours.local_path("main", path) for path in paths}
    lakefs.commit("main", files, message="The same")
    checkout(lakefs, configured, RUN, tmp_path / "lakefs" / "model")
    take(RUN, tmp_path / "git" / "model")
    for name in FILES:
        assert (tmp_path / "lakefs/model" / name).read_bytes() == (tmp_path / "git/model" / name).read_bytes()
