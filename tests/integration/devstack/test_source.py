"""What `make dev` watches: which folders and files count, and that files which have not changed are not read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devstack import source
from devstack.source import Reader, packages


def write(folder: Path, file: str, text: str = "x = 1\n") -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def reader(folder: Path) -> Reader:
    return Reader(folder, folder / ".env")


@pytest.mark.parametrize(
    "file",
    ["venv/pyvenv.cfg", "env/pyvenv.cfg", "my-python/pyvenv.cfg", "conda/conda-meta", "store/PG_VERSION",
     "cache/CACHEDIR.TAG", "lib/site-packages/b.py", "page/node_modules/b.py", "deep/er/venv/pyvenv.cfg"],
)  # fmt: skip
def test_folder_of_somebody_else_is_left_out(tmp_path: Path, file: str) -> None:
    write(tmp_path, "helpers/a.py")
    write(tmp_path, file)
    write(tmp_path, str(Path(file).parent / "b.py"))
    write(tmp_path, str(Path(file).parent / "b" / "c.py"))
    assert set(reader(tmp_path).read().modules) == {"helpers/a.py"}
    if Path(file).parent.parent == Path("."):
        assert packages(tmp_path) == (tmp_path / "helpers",), "it is not watched either"


def test_project_that_is_itself_an_environment_is_read(tmp_path: Path) -> None:
    write(tmp_path, "pyvenv.cfg")
    write(tmp_path, "handlers.py")
    write(tmp_path, "baml_src/deep/a.baml")
    found = reader(tmp_path).read()
    assert (set(found.modules), set(found.baml)) == ({"handlers.py"}, {"baml_src/deep/a.baml"})


def test_only_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read_bytes = Path.read_bytes

    def count(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    for name in ("handlers.py", "helpers/a.py", "baml_src/a.baml"):
        write(tmp_path, name)
    monkeypatch.setattr(Path, "read_bytes", count)
    read = reader(tmp_path)
    first = read.read()
    assert (read.read(), reads.count("a.py")) == (first, 2), "so soon, its time says nothing"
    monkeypatch.setattr(source, "_RACY_NS", 0)
    assert read.read() == first
    reads.clear()
    assert (read.read(), reads) == (first, [".env"])
    # a change of the same size, with the time of before
    path = tmp_path / "helpers" / "a.py"
    before = path.stat()
    path.write_text("x = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read.read() != first
    assert [name for name in reads if name != ".env"] == ["a.py"]


def test_walk_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_ENTRIES", 20)
    write(tmp_path, "helpers/z.py")
    write(tmp_path, "data/top.py")
    for number in range(30):
        write(tmp_path, f"data/rows/{number}.json")
    found = reader(tmp_path).read()
    assert (set(found.modules), found.too_large) == ({"helpers/z.py", "data/top.py"}, ("data/",))


def test_links_that_lead_nowhere_count_as_absent(tmp_path: Path) -> None:
    for name in ("loop", "loop.py", "baml_src/loop.baml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(Path(name).name)
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "up").symlink_to("..")
    write(tmp_path, "handlers.py")
    found = reader(tmp_path).read()
    assert (set(found.modules), set(found.baml)) == ({"handlers.py"}, set())
