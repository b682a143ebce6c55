"""The command itself: its table, its help, and an environment that lacks something."""

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vlv
from vlv import resources
from vlv.cli import data
from vlv.cli import main as command
from vlv.cli.entry import Call, parse
from vlv.cli.launch import LAUNCHED
from vlv.config import CaptionConfig, ConfigError, load_config

ROOT = Path(__file__).resolve().parents[3]


def ended(capsys, *arguments):
    """(exit code, stdout, stderr) of a call that exits."""
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_a_process_that_prints_help_can_still_write_into_a_closed_socket(capsys):
    for call in (["--help"], ["stage1", "--help"], ["stage1", "print_config=true"]):
        assert ended(capsys, *call)[0] == 0
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN, "as Python starts: else the write would end it"


def test_help_and_version(capsys):
    code, out, _ = ended(capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in command.COMMANDS)
    assert ended(capsys)[:2] == (2, out)
    assert ended(capsys, "--version") == (0, f"vlv {vlv.__version__}\n", "")


def test_an_unknown_command_names_the_near_one_or_all(capsys):
    code, _, err = ended(capsys, "stage3")
    assert code == 2
    assert "did you mean stage" in err
    assert "give one of stage1, stage2, caption" in ended(capsys, "xyz")[2]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_is_there(name):
    assert callable(import_module(command.COMMANDS[name].module).main)


def test_launched_commands_have_recipes_and_functions():
    tools = {f"data {name}" for name, tool in data.TOOLS.items() if tool.with_name}
    assert {name for name, entry in command.COMMANDS.items() if entry.with_name} | tools == set(LAUNCHED)
    for launched in LAUNCHED.values():
        assert launched.recipe is None or (resources.recipes_folder() / launched.recipe).is_file()
        assert callable(getattr(import_module(launched.module), launched.function))


@pytest.mark.parametrize("package", ["omegaconf", "yaml", "torch"])
def test_a_missing_package_is_one_line_with_the_fix(tmp_path, package):
    """A call that gets as far as the device check, in a process where one package cannot be found."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from vlv.cli.main import main
import vlv.cli.launch
vlv.cli.launch.check_call = lambda config: None
main(["caption", "image_path={ROOT / "assets"}"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the Python package {package} is not installed in ")
    assert done.stderr.count("\n") == 1
    assert "pip install -r requirements.txt" in done.stderr


def test_positional_paths(capsys):
    call = Call("vlv caption", "", ("image_path",))
    assert parse(CaptionConfig, call, ["photos/a=b.jpg", "num_beams=1"]).image_path == "photos/a=b.jpg"
    assert parse(CaptionConfig, call, ["photos", "image_path=other"]).image_path == "other"
    with pytest.raises(SystemExit):
        parse(CaptionConfig, call, ["a.jpg", "b.jpg"])
    assert "'b.jpg' has no meaning for vlv caption: it takes IMAGE_PATH" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--lr", "3"], ["--config"]])
def test_other_flags_are_refused(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        parse(CaptionConfig, Call("vlv caption", ""), arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_recipes_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "configs" / "stage1_sdxl.yaml"
    for name in ("stage1_sdxl", "stage1_sdxl.yaml", "configs/stage1_sdxl.yaml", str(shipped)):
        assert resources.find_recipe(name) == shipped
    (tmp_path / "stage1_sdxl.yaml").write_text("lr: 1\n")
    assert resources.find_recipe("stage1_sdxl.yaml") == Path("stage1_sdxl.yaml")  # the user's own comes first
    with pytest.raises(ConfigError, match="absent"):
        load_config(CaptionConfig, resources.find_recipe("absent"), [])


def test_the_clones_folders_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.recipes_folder() == ROOT / "configs"
    assert resources.assets_folder() == ROOT / "assets"
    assert resources.project_folder() == ROOT
