"""What commands take and hand out: files of whoever asks, or standard streams."""

import io
from pathlib import Path

import pytest

from cryptometer.errors import ConfigurationError
from hal.handing import STDIN, STDOUT, hand_out, read_given


class _Stream:
    """Standard input or output, as bytes."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)


def test_a_file_is_written_whole_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hand_out(tmp_path / "a", b"data", "4 bytes", 0o644, ["so it is"]) == 0
    assert (tmp_path / "a").read_bytes() == b"data"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    assert capsys.readouterr() == (f"so it is\n{tmp_path / 'a'}: 4 bytes\n", "")


def test_standard_output_holds_the_data_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = _Stream()
    monkeypatch.setattr("sys.stdout", stream)
    assert hand_out(STDOUT, b"\x00data", "5 bytes", before=["so it is"]) == 0
    assert stream.buffer.getvalue() == b"\x00data"
    assert capsys.readouterr().err == "so it is\nstandard output: 5 bytes\n"


def test_a_place_that_cannot_be_written_to_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot write .*: No such file.*--out - > FILE"):
        hand_out(tmp_path / "none" / "a", b"data", "written")


def test_what_is_given_is_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"file")
    monkeypatch.setattr("sys.stdin", _Stream(b"stream"))
    assert [read_given(path) for path in (tmp_path / "a", STDIN)] == [b"file", b"stream"]
    with pytest.raises(ConfigurationError, match=r"cannot read .*none: No such file"):
        read_given(tmp_path / "none")
