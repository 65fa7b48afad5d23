from schemas.command_line import WRONG_USE, exit_code


def test_a_file_that_may_not_be_read_is_named(capsys):
    def command() -> int:
        raise PermissionError(13, "Permission denied", "models/inspector/config.json")

    assert exit_code(command) == WRONG_USE
    assert capsys.readouterr().err == "error: models/inspector/config.json: permission denied\n"
