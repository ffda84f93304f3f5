"""`jaxavatar distill`: what it refuses before anything is computed, and what it warns of."""

import numpy as np
import pytest

from jaxavatar import cli
from jaxavatar.cli import distill
from jaxavatar.training.personal import Examination


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--teacher", "nobody"], "there is no teacher 'nobody'"),
        (["--teacher", "remote"], "there is no teacher 'remote'"),
        (["--teacher", "procedural:x"], "there is no teacher 'procedural:x'"),
        (["--teacher", "recorded"], "go together"),
        (["--clips", "clips"], "go together"),
        (["--teacher", "procedural", "--speech", "a.wav"], "leave --speech out"),
        ([], "me.avatar"),  # there is none
    ],
)
def test_refuses(options, sentence, tmp_path, capsys):
    out = tmp_path / "taught"
    assert cli.main(["distill", str(tmp_path / "me.avatar"), "--out", str(out), *options]) != 0
    said = capsys.readouterr().err
    assert sentence in said.replace("\n", " ") and "Traceback" not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_never_writes_over_the_avatar(tmp_path, capsys):
    avatar = tmp_path / "me.avatar"
    avatar.write_bytes(b"mine")
    assert cli.main(["distill", str(avatar), "--out", str(tmp_path)]) != 0
    assert "would overwrite the avatar itself" in capsys.readouterr().err
    assert avatar.read_bytes() == b"mine"


@pytest.mark.parametrize(("after", "warned"), [(2.0, False), (1.3, False), (1.1, True)])
def test_says_when_the_mouth_became_still(after, warned):
    def seen(opening):
        return Examination({"opening_mm": opening}, np.zeros(3), np.zeros((1, 4, 4, 3)))

    said = distill._warning(seen(2.0), seen(after))
    assert bool(said) == warned
    if warned:
        assert "1.1 mm instead of 2 mm" in said[0]
