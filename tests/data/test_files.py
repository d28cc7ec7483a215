"""Files that are written whole or not at all."""

import pytest

from jaxcoinfer.data.files import partial_path, replace_file


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        replace_file(path, content)
        assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError):
        replace_file(path, b"content")
    assert path.is_dir() and list(tmp_path.iterdir()) == [path]


def test_what_is_written_lies_beside_the_file(tmp_path):
    partial = partial_path(tmp_path / "file")
    assert partial.parent == tmp_path and partial.name.startswith(".file.")
