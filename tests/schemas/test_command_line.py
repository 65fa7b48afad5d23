import errno

import pytest

from schemas.command_line import WRONG_USE, exit_code


def test_a_file_that_may_not_be_read_is_named(capsys):
    def command() -> int:
        raise PermissionError(13, "Permission denied", "models/inspector/config.json")

    assert exit_code(command) == WRONG_USE
    assert capsys.readouterr().err == "error: models/inspector/config.json: permission denied\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EROFS, "Read-only file system"), (errno.ENOTDIR, "Not a directory"), (errno.EEXIST, "File exists")],
)
def test_what_a_disk_refuses_is_told_in_words(capsys, number, said):
    def command() -> int:
        raise OSError(number, said, "runs/mine/at_work.lock")

    assert exit_code(command) == WRONG_USE
    assert capsys.readouterr().err == f"error: runs/mine/at_work.lock: {said}\n"


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "of no file"), FileNotFoundError(errno.ENOENT, "gone", "x")])
def test_any_other_error_of_the_system_is_a_bug(error):
    def command() -> int:
        raise error

    with pytest.raises(type(error)):
        exit_code(command)
