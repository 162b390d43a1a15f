"""Models fetched from a small Hub on this machine: whole or not at all, however it misbehaves."""

import errno
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.models import hub_connection
from embedome.models.directory import check_model_directory, load_model, model_identity
from embedome.models.fetched_directory import check_own_fetch
from embedome.models.hub import HubModel, fetch_model, find_hub_id
from embedome.models.registry import REGISTRY
from helpers import hub_server
from helpers.hub_server import Hub, Repository, commit, files_of, serve_hub
from helpers.processes import python_command
from helpers.small_run import rough_model
from safetensors.torch import load_file
from transformers import EsmForMaskedLM

NAME = "lab/tiny-esm"
SIZES = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128}
NEEDED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as somebody else may have pushed it."""
    folder = rough_model(tmp_path_factory.mktemp("released") / "model", like="esm2-8m", sizes=SIZES)
    config = json.loads((folder / "config.json").read_text())
    del config["embedome"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def hub(released: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_connection, "PAUSE_S", 0.0)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    # The library writes this much at once; what is lost with a connection is less.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve_hub() as server:
        repository = server.repositories[NAME] = Repository()
        extra = {"README.md": b"#", "pytorch_model.bin": b"pickle", "flax_model.msgpack": b"x", "vocab/x.txt": b"x"}
        repository.push({**files_of(released), **extra})
        yield server


def fetch(hub: Hub, directory: Path, name: str = NAME, revision: str | None = None) -> HubModel:
    return fetch_model(name, directory, revision, endpoint=hub.endpoint)[1]


def assert_whole(directory: Path, released: Path, revision: str = commit("first")) -> None:
    """The released files, but for what config.json says besides."""
    assert {path.name for path in directory.iterdir()} == NEEDED | {"hub.json"}
    for name in NEEDED - {"config.json"}:
        assert (directory / name).read_bytes() == (released / name).read_bytes()
    config = json.loads((directory / "config.json").read_text())
    assert config.pop("embedome") == {"hub": {"id": NAME, "revision": revision}}
    assert config == json.loads((released / "config.json").read_text())
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


# What is fetched


def test_the_files_needed_at_one_commit(hub: Hub, released: Path, tmp_path: Path) -> None:
    found = fetch(hub, tmp_path / "model")
    assert (found.id, found.revision, found.licence) == (NAME, commit("first"), "mit")
    assert sorted(hub.asked()) == sorted(NEEDED)
    assert all(commit("first") in path for path, *_ in hub.requests if "/resolve/" in path)
    assert_whole(tmp_path / "model", released)
    ours, theirs = load_model(tmp_path / "model").encoder, EsmForMaskedLM.from_pretrained(tmp_path / "model")
    assert sum(each.numel() for each in ours.parameters()) < sum(each.numel() for each in theirs.parameters())


def test_provenance_has_id_and_commit(hub: Hub, released: Path, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "model")
    identity = model_identity(tmp_path / "model")
    assert identity["hub"] == {"id": NAME, "revision": commit("first")}
    assert identity["weights_sha256"] == file_sha256(released / "model.safetensors")
    assert "hub" not in model_identity(released)


@pytest.mark.parametrize("revision", ["v1", commit("first")])
def test_a_revision_is_resolved_to_its_commit(hub: Hub, released: Path, tmp_path: Path, revision: str) -> None:
    repository, newer = hub.repositories[NAME], {**files_of(released), "model.safetensors": b"newer"}
    repository.branches["v1"] = commit("first")
    repository.push(newer, "second")
    assert fetch(hub, tmp_path / "model", revision=revision).revision == commit("first")
    assert_whole(tmp_path / "model", released)


def test_a_pickle_where_there_are_no_safetensors(hub: Hub, released: Path, tmp_path: Path) -> None:
    import torch

    files = files_of(released)
    torch.save(load_file(released / "model.safetensors"), tmp_path / "weights")
    del files["model.safetensors"]
    hub.repositories[NAME].push({**files, "pytorch_model.bin": (tmp_path / "weights").read_bytes()}, "pickle")
    fetch(hub, tmp_path / "model")
    assert (tmp_path / "model" / "pytorch_model.bin").is_file()
    check_model_directory(tmp_path / "model")


def test_weights_in_several_files(hub: Hub, released: Path, tmp_path: Path) -> None:
    files = files_of(released)
    del files["model.safetensors"]
    EsmForMaskedLM.from_pretrained(released).save_pretrained(tmp_path / "cut", max_shard_size="100KB")
    cut = {name: data for name, data in files_of(tmp_path / "cut").items() if name.startswith("model")}
    assert len(cut) > 3
    hub.repositories[NAME].push({**files, **cut}, "cut")
    fetch(hub, tmp_path / "model")
    load_model(tmp_path / "model")
    broken = {name: data for name, data in cut.items() if "00002" not in name}
    hub.repositories[NAME].push({**files, **broken}, "broken")
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json names 'model-00002.* which it has not"):
        fetch(hub, tmp_path / "other")


def test_by_a_name_of_the_registry(hub: Hub, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["facebook/esm2_t6_8M_UR50D"] = hub.repositories[NAME]
    monkeypatch.chdir(tmp_path)
    directory, found = fetch_model("esm2-8m", endpoint=hub.endpoint)
    assert directory == Path("models/esm2-8m")
    assert found.id == "facebook/esm2_t6_8M_UR50D"
    assert fetch_model(NAME, endpoint=hub.endpoint)[0] == Path("models/tiny-esm")


def test_ids_of_the_registry() -> None:
    assert find_hub_id("prott5-xl") == "Rostlab/prot_t5_xl_uniref50"
    elsewhere = {name for name, entry in REGISTRY.items() if entry.hub is None}
    assert elsewhere == {"esm1nv", "esm1nv-1024", "prott5nv", "antiberty", "sapiens-vh", "sapiens-vl"}
    with pytest.raises(UserError, match=r"esm1nv is not on .* elsewhere \(NVIDIA NGC.*embedome models import"):
        find_hub_id("esm1nv")
    with pytest.raises(UserError, match=r"no model is called 'esm2'; expected org/name, or one of ankh2-ext2, esm2-8m"):
        find_hub_id("esm2")
    with pytest.raises(UserError, match="no model is called"):
        find_hub_id("../../etc/x")


@pytest.mark.parametrize(
    ("name", "wheel"),
    [("antiberty", "antiberty==0.1.3"), ("sapiens-vh", "sapiens==1.0.5"), ("sapiens-vl", "sapiens==1.0.5")],
)
def test_of_weights_in_a_wheel_it_says_which_and_how(hub: Hub, tmp_path: Path, name: str, wheel: str) -> None:
    for ask in (lambda: fetch(hub, tmp_path / "model", name), lambda: check_model_directory(name)):
        with pytest.raises(UserError) as excinfo:
            ask()
        assert f"in a wheel: `python -m pip download --no-deps {wheel}`" in str(excinfo.value)
        assert "docs/antibodies.md" in str(excinfo.value)
    assert not hub.requests
    assert not list(tmp_path.iterdir())


# A Hub that misbehaves


@pytest.mark.parametrize(
    "faults",
    [
        [hub_server.drop],
        [hub_server.drop] * 12,
        [hub_server.drop_at_once] * 3,
        [hub_server.stall, hub_server.drop],
        [hub_server.drop, hub_server.whole],
        [hub_server.fail(503), hub_server.drop, hub_server.fail(500)],
    ],
    ids=["drop", "drops", "drops at once", "stall", "no ranges", "busy"],
)
def test_a_broken_connection_is_taken_up_again(
    hub: Hub, released: Path, tmp_path: Path, faults: list[hub_server.Fault]
) -> None:
    hub.faults[:] = faults
    fetch(hub, tmp_path / "model")
    assert not hub.faults
    assert_whole(tmp_path / "model", released)


def test_a_description_that_breaks_off_is_asked_for_again(hub: Hub, released: Path, tmp_path: Path) -> None:
    hub.api_faults[:] = [hub_server.drop_at_once, hub_server.fail(503)]
    fetch(hub, tmp_path / "model")
    assert_whole(tmp_path / "model", released)


@pytest.mark.parametrize("fault", [hub_server.drop_at_once, hub_server.fail(502), hub_server.stall])
def test_a_connection_that_stays_broken_is_one_line_and_the_next_run_goes_on(
    hub: Hub, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: hub_server.Fault
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(hub_connection, "TRIES", 2)
    hub.faults[:] = [hub_server.drop, *[fault] * 200]
    with pytest.raises(UserError, match=r"what has come is kept, run again to go on$") as told:
        fetch(hub, tmp_path / "model")
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.fetch"]
    hub.faults.clear()
    hub.requests.clear()
    fetch(hub, tmp_path / "model")
    assert hub.asked() == ["model.safetensors"]
    size = (released / "model.safetensors").stat().st_size
    ((_, wanted, _),) = [each for each in hub.requests if "/resolve/" in each[0]]
    assert int(wanted.removeprefix("bytes=").rstrip("-")) > size // 3 - 1000
    assert_whole(tmp_path / "model", released)


def test_other_bytes_than_announced_are_not_taken(hub: Hub, released: Path, tmp_path: Path) -> None:
    hub.faults[:] = [hub_server.other_bytes]
    with pytest.raises(UserError, match=r"model\.safetensors came damaged \(another digest than the Hub says\); run"):
        fetch(hub, tmp_path / "model")
    fetch(hub, tmp_path / "model")
    assert_whole(tmp_path / "model", released)


def test_half_of_another_commit_is_not_gone_on_with(hub: Hub, released: Path, tmp_path: Path) -> None:
    hub.faults[:] = [hub_server.drop, hub_server.fail(404)]
    with pytest.raises(UserError):
        fetch(hub, tmp_path / "model")
    newer = files_of(rough_model(tmp_path / "newer" / "model", 2, "esm2-8m", SIZES))
    hub.repositories[NAME].push(newer, "second")
    hub.faults.clear()
    hub.requests.clear()
    fetch(hub, tmp_path / "model")
    assert {wanted for path, wanted, _ in hub.requests if "/resolve/" in path} == {None}
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == newer["model.safetensors"]


# What is refused


def test_a_gated_an_absent_and_an_unknown_one_are_one_line_each(
    hub: Hub, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["lab/gated"] = Repository(gated=True)
    hub.repositories["lab/gated"].push(files_of(released))
    with pytest.raises(
        UserError, match=rf"lab/gated: is gated; accept its terms on {hub.endpoint}/lab/gated, set HF_TOKEN"
    ):
        fetch(hub, tmp_path / "model", "lab/gated")
    with pytest.raises(UserError, match=r"lab/absent: no such model on http://127\.0\.0\.1:\d+, or a private one"):
        fetch(hub, tmp_path / "model", "lab/absent")
    with pytest.raises(UserError, match="lab/tiny-esm: has no revision 'v9'; name a commit, tag or branch"):
        fetch(hub, tmp_path / "model", revision="v9")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetch(hub, tmp_path / "model", "lab/gated")
    load_model(tmp_path / "model")


def test_a_model_that_is_not_known_is_refused_before_its_weights(hub: Hub, released: Path, tmp_path: Path) -> None:
    files, repository = files_of(released), hub.repositories[NAME]
    config = json.loads(files["config.json"])
    repository.push({**files, "config.json": json.dumps({**config, "model_type": "nothing"}).encode()}, "nothing")
    with pytest.raises(UserError, match=r"^lab/tiny-esm/config\.json: model_type is 'nothing'; expected one of"):
        fetch(hub, tmp_path / "model")
    assert "model.safetensors" not in hub.asked()
    repository.push({**files, "adapter_config.json": b"{}"}, "adapter")
    with pytest.raises(UserError, match=r"holds adapter_config\.json, an adapter"):
        fetch(hub, tmp_path / "model")
    repository.push({"config.json": files["config.json"], "tokenizer.json": files["tokenizer.json"]}, "none")
    with pytest.raises(UserError, match=r"has no model\.safetensors, .* or pytorch_model\.bin\.index\.json"):
        fetch(hub, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["model", "model.fetch"])
def test_other_files_are_never_overwritten(hub: Hub, tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "model.safetensors").write_text("mine")
    with pytest.raises(UserError, match=f"{place}: .*(name a directory that is not there|name another directory)"):
        fetch(hub, tmp_path / "model")
    assert [path.read_text() for path in tmp_path.rglob("*.safetensors")] == ["mine"]
    assert not hub.asked()


def test_a_fetched_model_is_there_already_or_replaced_by_another_commit(
    hub: Hub, released: Path, tmp_path: Path
) -> None:
    fetch(hub, tmp_path / "model")
    hub.requests.clear()
    fetch(hub, tmp_path / "model")
    assert hub.asked() == []
    newer = files_of(rough_model(tmp_path / "newer" / "model", 2, "esm2-8m", SIZES))
    hub.repositories[NAME].push(newer, "second")
    fetch(hub, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == newer["model.safetensors"]
    # What Snakemake leaves where it runs the rule again.
    (tmp_path / "model" / "config.json").unlink()
    fetch(hub, tmp_path / "model", revision=commit("first"))
    (tmp_path / "model" / "model.safetensors").write_text("trained further")
    hub.requests.clear()
    with pytest.raises(UserError, match=r"model\.safetensors: changed since it was fetched; name a directory"):
        fetch(hub, tmp_path / "model", revision=commit("second"))
    assert not hub.asked()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes\.txt', which embedome did not make"):
        check_own_fetch(tmp_path / "model")


def test_a_full_disk_is_named_and_the_next_run_goes_on(
    hub: Hub, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    get = file_download.http_get

    def full(url: str, handle: object, **others: object) -> None:
        if not url.endswith("safetensors"):
            return get(url, handle, **others)
        handle.write((released / "model.safetensors").read_bytes()[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", full)
        with pytest.raises(OSError, match="No space left on device") as told:
            fetch(hub, tmp_path / "model")
    assert told.value.filename == str(tmp_path / "model")
    hub.requests.clear()
    fetch(hub, tmp_path / "model")
    assert [wanted for path, wanted, _ in hub.requests if "/resolve/" in path] == ["bytes=1000-"]
    assert_whole(tmp_path / "model", released)


def test_without_room_nothing_is_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(UserError, match=r"model: needs 0\.\d MB, but 0\.1 MB are free there"):
        fetch(hub, tmp_path / "model")
    assert "model.safetensors" not in hub.asked()


# Tokens


def run_command(hub: Hub, folder: Path, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home")}
    environment |= {"HF_TOKEN": token} if token else {}
    return subprocess.run(
        [*python_command("from embedome.cli.main import main; main()"), "models", "fetch", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_says_the_licence_and_no_token(hub: Hub, released: Path, tmp_path: Path) -> None:
    hub.repositories["lab/gated"] = Repository(gated=True, card={"license": "other", "license_name": "terms-of-lab"})
    hub.repositories["lab/gated"].push(files_of(released))
    hub.faults[:] = [hub_server.drop]
    done = run_command(hub, tmp_path, "lab/gated", token=hub.token)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"models/gated: lab/gated at {commit('first')}, licence: terms-of-lab\n"
    assert "licence: terms-of-lab" in done.stderr
    assert any(sent == f"Bearer {hub.token}" for *_, sent in hub.requests)
    wrong = run_command(hub, tmp_path, "lab/gated", "again", token="hf_another\nline")
    assert wrong.returncode == 2
    assert len([line for line in wrong.stderr.splitlines() if " ERROR " in line]) == 1
    for text in (done.stdout, done.stderr, wrong.stdout, wrong.stderr):
        assert "hf_" not in text
        assert "Traceback" not in text


def test_no_library_logs_addresses_or_headers(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.faults[:] = [hub_server.drop, hub_server.stall]
    with caplog.at_level(logging.DEBUG):
        fetch(hub, tmp_path / "model")
    assert not [record for record in caplog.records if not record.name.startswith(("embedome", "filelock"))]
    assert hub.token not in caplog.text


def test_without_a_network_it_is_one_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_connection, "TRIES", 2)
    with pytest.raises(UserError, match=r"lab/tiny-esm: no connection to http://127\.0\.0\.1:9 \(ConnectError\)"):
        fetch_model(NAME, tmp_path / "model", endpoint="http://user:password@127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch(hub, tmp_path / "model")


# Where nothing is there


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("esm2-650m", "`embedome models fetch esm2-650m` puts it into models/esm2-650m"),
        ("esm1nv", r"its weights are elsewhere .*docs/models\.md"),
        ("facebook/esm2", r"name on the Hugging Face Hub for `embedome models fetch facebook/esm2`"),
        ("a/b/c", "expected a folder with config.json and weights$"),
    ],
)
def test_a_name_in_the_place_of_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name}: no such model directory; .*{hint}"):
        check_model_directory(name)
    Path("models", name).mkdir(parents=True)
    if name in REGISTRY:
        with pytest.raises(UserError, match=f"did you mean models/{name}"):
            check_model_directory(name)
