"""An empty Git store: what every one of them begins with."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pygit2

from orchestration.store import durable
from orchestration.store.contract import MAIN, PRIVATE, StoreError
from orchestration.store.git.lfs_objects import LfsObjects
from orchestration.store.git.objects import ATTRIBUTES, ATTRIBUTES_TEXT, BLOB, GitObjects, NewObjects, encode_message
from orchestration.store.git.refs import BRANCHES

LAYOUT = "1"  # of the store itself; raised when an older Headwater could misread or harm it


def looks_like_store(folder: Path) -> bool:
    """Whether a store is or was here: it may have lost its HEAD."""
    return (folder / "HEAD").exists() or ((folder / "objects").is_dir() and (folder / "lfs").is_dir())


def configure(folder: Path) -> None:
    """What the configuration of every store says; a file that cannot be read is set aside."""
    path = folder / "config"
    try:
        config = pygit2.Config(str(path))
    except pygit2.GitError:
        os.replace(path, folder / "config.damaged")
        config = pygit2.Config(str(path))
    config["core.bare"] = True
    config["core.repositoryformatversion"] = 0
    config["headwater.layout"] = LAYOUT
    config["gc.auto"] = 0  # Git's own gc would prune commits that only lineage rows name
    config["gc.pruneExpire"] = "never"
    config["receive.denyNonFastForwards"] = True
    durable.sync_file(path)
    durable.sync_folders([folder])


def create_store(folder: Path) -> None:
    """Make an empty store beside the place and rename it there: nobody sees half a store."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} exists and is not a Headwater store; choose an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    mode = folder.stat().st_mode & 0o7777 if folder.exists() else PRIVATE  # an empty folder is its maker's word
    temporary = folder.parent / f".{folder.name}.{durable.temporary_name()}"
    try:
        repository = pygit2.init_repository(str(temporary), bare=True, initial_head=MAIN)
        temporary.chmod(mode)
        configure(temporary)
        durable.make_folder(temporary / "headwater")
        LfsObjects(temporary / "lfs").create()
        objects = NewObjects(GitObjects(repository))
        tree = objects.add_tree({ATTRIBUTES: (BLOB, objects.add("blob", ATTRIBUTES_TEXT))})
        first = objects.add_commit(tree, [], encode_message("An empty Headwater store", {}), int(time.time()))
        objects.write()
        repository.references.create(BRANCHES + MAIN, first)
        durable.sync_tree(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / "HEAD").exists():  # else another process made it first
                raise
        durable.sync_folders([folder.parent])
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
