"""Models fetched from the Hugging Face Hub: from a name to a directory, at one commit.

Files come to a folder beside the directory, ``<DIR>.fetch``, from where a run that was killed goes on. The directory is
put in place whole, with every digest checked.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.atomic_files import atomic_directory, name_full_disk
from embedome.common.disk_space import check_room
from embedome.common.errors import UserError, cut, quote_value
from embedome.common.json_files import file_sha256, json_text, read_json
from embedome.common.locks import try_lock
from embedome.common.log import Progress
from embedome.common.outputs import is_empty_folder
from embedome.models.directory import CONFIG, HUB, check_model_directory, read_tokenizer, say_where
from embedome.models.fetched_directory import MARK, check_own_fetch, check_unchanged, is_fetched
from embedome.models.hub_connection import name_hub_faults, persist, silence_library
from embedome.models.hub_files import HubFile, choose_small_files, choose_weights
from embedome.models.registry import CONFIG_KEY, HUB_ID, REGISTRY

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

# In the folder of a fetch under way.
LOCK, STATE = "lock", "fetch.json"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hub at one commit."""

    id: str
    revision: str
    licence: str
    files: dict[str, HubFile]

    def as_json(self) -> dict[str, str]:
        """Return what identifies it, as provenance has it."""
        return {"id": self.id, "revision": self.revision}


def find_hub_id(name: str) -> str:
    """Return the Hub's id of a model that is named by it, or by the registry.

    Raises
    ------
    UserError
        Where the name is neither, or the registered model is not on the Hub.
    """
    entry = REGISTRY.get(name)
    if entry is not None and entry.hub is None:
        raise UserError(f"{name} is not on the Hugging Face Hub; {say_where(entry)}")
    if entry is None and not HUB_ID.fullmatch(name):
        raise UserError(
            f"no model is called {quote_value(name)}; expected org/name, or one of "
            f"{', '.join(each.name for each in REGISTRY.values() if each.hub)}"
        )
    return name if entry is None or entry.hub is None else entry.hub


def fetch_model(
    name: str,
    directory: str | os.PathLike | None = None,
    revision: str | None = None,
    *,
    endpoint: str | None = None,
) -> tuple[Path, HubModel]:
    """Fetch a model from the Hub.

    Parameters
    ----------
    name : str
        Of the registry, or an id of the Hub.
    directory : path, optional
        ``models/<name>`` if not given. A model that was fetched there and not changed since is replaced.
    revision : str, optional
        Commit, tag or branch; the newest commit if not given.
    endpoint : str, optional
        Of the Hub; the library's, HF_ENDPOINT, if not given.

    Returns
    -------
    directory : Path
    model : HubModel
        At the commit that was found.

    Raises
    ------
    UserError
        Where the model or revision is not there or not open to the user, the connection fails, a file comes damaged,
        the model is not one that embedome loads, or the directory holds anything else.
    OSError
        Of a full disk.
    """
    repository = find_hub_id(name)
    directory = Path(directory or Path("models") / name.rpartition("/")[2])
    check_own_fetch(directory)
    with silence_library():
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint, library_name="embedome")
        model = find_model(api, repository, revision)
        check_unchanged(directory)
        if is_fetched(directory, model.as_json()):
            log.info("%s: holds %s at %s already", directory, model.id, model.revision)
            return directory, model
        log.info("%s at %s, licence: %s", model.id, model.revision, model.licence)
        with work_folder(directory, model) as work, name_full_disk(directory):
            first = choose_small_files(model.id, model.files)
            for file in first:
                fetch_file(api, model, file, work)
            check_known(model, first, work)
            rest = choose_weights(model.id, model.files, work)
            size = sum(file.size for file in rest)
            there = sum(path.stat().st_size for file in rest for path in work.glob(f"{file.name}*"))
            check_room(directory, max(0, size - there))
            with Progress(f"fetch {model.id}", "bytes", size) as progress:
                for file in rest:
                    fetch_file(api, model, file, work, progress.update)
            check_model_directory(work)
            publish(work, [*first, *rest], directory, model)
    return directory, model


def find_model(api: "HfApi", repository: str, revision: str | None) -> HubModel:
    """Find the commit of a revision, its files and its licence."""
    with name_hub_faults(api, repository, revision):
        info = persist(lambda: api.model_info(repository, revision=revision, files_metadata=True))
    said = [info.card_data.get(key) for key in ("license_name", "license")] if info.card_data else []
    said += [entry.licence for entry in REGISTRY.values() if entry.hub == repository]
    licence = next(filter(None, said), "not said; see its page")
    if info.sha is None:
        raise UserError(f"{repository}: the Hub does not say its commit; name one by --revision")
    files = [HubFile.of(each) for each in info.siblings or []]
    return HubModel(repository, info.sha, cut(str(licence)), {each.name: each for each in files})


def check_known(model: HubModel, files: list[HubFile], folder: Path) -> None:
    """Refuse a model that embedome does not load, by its small files, before its weights are fetched.

    Raises
    ------
    UserError
        As `directory.read_tokenizer`.
    """
    try:
        read_tokenizer(folder)
    except UserError as error:
        for file in files:
            (folder / file.name).unlink()
        raise UserError(str(error).replace(str(folder), model.id)) from None


def fetch_file(
    api: "HfApi", model: HubModel, file: HubFile, folder: Path, count: Callable[[int], object] = lambda size: None
) -> None:
    """Fetch a file to a folder, from the byte on that an earlier try reached, and check it.

    Raises
    ------
    UserError
        As `name_hub_faults`, and where it is not the file that the Hub announced.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path = folder / file.name
    if path.exists():
        count(file.size)
        return
    partial = path.with_name(f"{file.name}.part")
    url = hf_hub_url(model.id, file.name, revision=model.revision, endpoint=api.endpoint)
    # Sizes and ranges are of the bytes as they are stored.
    headers = {**build_hf_headers(library_name="embedome"), "Accept-Encoding": "identity"}
    counted = 0

    class Bar:
        """Stands in for tqdm."""

        def __init__(self, *given: object, **named: object) -> None: ...

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *exception: object) -> None: ...

        def update(self, size: int) -> None:
            nonlocal counted
            counted += size
            count(size)

    def get() -> None:
        with open(partial, "ab") as handle:
            reached = handle.tell()
            if reached > file.size:
                handle.truncate(0)
                reached = 0
            if counted < reached:
                Bar().update(reached - counted)
            http_get(url, handle, resume_size=reached, headers=headers, expected_size=file.size, tqdm_class=Bar)

    with name_hub_faults(api, model.id, model.revision):
        try:
            persist(get, lambda: partial.stat().st_size)
        finally:
            if file.size and not partial.stat().st_size:
                partial.unlink()
    if not file.is_whole(partial):
        partial.unlink()
        raise UserError(f"{model.id}: {file.name} came damaged (another digest than the Hub says); run again")
    os.replace(partial, path)


@contextmanager
def work_folder(directory: Path, model: HubModel) -> Iterator[Path]:
    """Yield the folder for a fetch under way, held against other processes; of another commit it is emptied first.

    Where nothing is left in it, it is removed.

    Raises
    ------
    UserError
        Where another process holds it, or it is of something else.
    """
    work = directory.with_name(f"{directory.name}.fetch")
    wanted = json_text({**model.as_json(), "directory": directory.name})
    state = work / STATE
    if work.is_dir() and not is_empty_folder(work) and not state.is_file() and os.listdir(work) != [LOCK]:
        raise UserError(f"{work}: is there already, and embedome did not make it; move it, or name another directory")
    with try_lock(work / LOCK) as is_held:
        if not is_held:
            raise UserError(f"{directory}: another process is fetching it; wait for it, then run again")
        if not state.is_file() or state.read_text(encoding="utf-8") != wanted:
            for path in work.iterdir():
                if path.name != LOCK and path.is_file():
                    path.unlink()
            state.write_text(wanted, encoding="utf-8")
        try:
            yield work
        finally:
            if {*os.listdir(work)} <= {STATE, LOCK}:
                for name in (STATE, LOCK):
                    (work / name).unlink(missing_ok=True)
                work.rmdir()


def publish(work: Path, files: list[HubFile], directory: Path, model: HubModel) -> None:
    """Put the fetched files in place as a model directory whose config.json says where they are from."""
    config = read_json(work / CONFIG)
    config[CONFIG_KEY] = {**config.get(CONFIG_KEY, {}), HUB: model.as_json()}
    with atomic_directory(directory, check_unchanged) as folder:
        for file in files:
            os.replace(work / file.name, folder / file.name)
        (folder / CONFIG).write_text(json_text(config), encoding="utf-8")
        digests = {file.name: file.sha256 or file_sha256(folder / file.name) for file in files}
        digests[CONFIG] = file_sha256(folder / CONFIG)
        about = {**model.as_json(), "licence": model.licence, "sha256": digests}
        (folder / MARK).write_text(json_text(about), encoding="utf-8")
