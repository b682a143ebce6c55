"""The launcher's own part: what it starts, and what it makes of a failure."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch

from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.schema import require_checkpoint
from vlv.cli import entry, launch
from vlv.cli.checks import check_call, check_writable
from vlv.cli.devices import check_devices, require_deepspeed
from vlv.cli.machines import Machines
from vlv.config import CaptionConfig, ConfigError, ReconstructConfig, Stage1Config, load_config
from vlv.data.remote import RemoteError
from vlv.resources import recipes_folder


def test_unknown_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        launch.main(["stage1", "--lr", "3"])
    assert stopped.value.code == 2
    assert "--lr is not an option" in capsys.readouterr().err


@pytest.mark.parametrize(("here", "wanted", "fit"), [(4, 8, "set num_gpus=4"), (0, 2, "num_gpus=1 runs on the CPU")])
def test_fewer_gpus_than_asked_names_the_call_that_fits(monkeypatch, here, wanted, fit):
    monkeypatch.setattr("torch.cuda.is_available", lambda: here > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    with pytest.raises(ConfigError, match=fit):
        check_devices(wanted, None)


def test_a_config_of_gpus_without_gpus_says_to_leave_it_out(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"accelerate_config=.*one_gpu.yaml is for GPUs .* leave it out"):
        check_devices(1, "configs/accelerate/one_gpu.yaml")


def test_several_nodes_share_the_processes(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert check_devices(16, "configs/accelerate/multi_node.yaml") is False
    monkeypatch.setenv("NUM_MACHINES", "4")
    assert check_devices(32, "configs/accelerate/multi_node.yaml") is False
    with pytest.raises(ConfigError, match="8 GPUs are here"):
        check_devices(64, "configs/accelerate/multi_node.yaml")


def test_cpu_config_takes_any_number(monkeypatch):
    assert check_devices(5, "configs/accelerate/cpu.yaml") is True


@pytest.mark.parametrize("name", ["eight_gpus", "multi_node", "fsdp", "zero2", "one_gpu"])
def test_accelerates_own_parser_takes_the_configs(monkeypatch, name):
    """What would be run on GPUs, up to the start of the processes."""
    seen = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    machines = Machines(2, 1, "10.0.0.1", 29501) if name == "multi_node" else Machines()
    ended = launch._run_on_gpus(["stage1", "config.json"], 16, f"configs/accelerate/{name}.yaml", machines)
    assert ended == launch.Ended(0)
    arguments = seen[0]
    assert arguments.num_processes == 16
    if name == "multi_node":
        assert (int(arguments.num_machines), int(arguments.machine_rank)) == (2, 1)
        assert (arguments.main_process_ip, int(arguments.main_process_port)) == ("10.0.0.1", 29501)
    assert arguments.module is True
    assert arguments.training_script == "vlv.cli.worker"
    assert arguments.training_script_args == ["stage1", "config.json"]


@pytest.mark.parametrize(
    ("code", "words", "exit_code"),
    [
        (-signal.SIGKILL, "process 3 was killed, most likely for memory", 1),
        (130, "resume=latest", 130),
        (7, "process 3 ended with exit code 7", 1),
    ],
)
def test_a_failure_is_one_line(tmp_path, capsys, code, words, exit_code):
    with pytest.raises(SystemExit) as stopped:
        launch._finish(launch.Ended(code, 3), tmp_path / "none", tmp_path / "error.log")
    assert stopped.value.code == exit_code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "setting", "place"),
    [
        (Stage1Config, "output_dir={}/run", "run/error.log"),
        (ReconstructConfig, "output_dir={}/pictures", "pictures/error.log"),
        (CaptionConfig, "output_path={}/captions.json", "captions.error.log"),
    ],
)
def test_the_trace_is_kept_even_before_the_run_folder_is_there(tmp_path, capsys, kind, setting, place):
    error = tmp_path / "error.txt"
    error.write_text("no such thing\n\nTraceback (most recent call last): ...")
    with pytest.raises(SystemExit):
        launch._finish(launch.Ended(1), error, launch._trace_path(load_config(kind, None, [setting.format(tmp_path)])))
    assert (tmp_path / place).read_text().startswith("Traceback")
    assert capsys.readouterr().err.strip() == f"error: no such thing (trace: {tmp_path / place})"


def test_deepspeed_that_is_not_installed_is_a_bad_call(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install deepspeed"):
        require_deepspeed("configs/accelerate/zero2.yaml")
    require_deepspeed("configs/accelerate/fsdp.yaml")
    require_deepspeed(None)


def test_processes_that_cannot_meet_are_one_line(capsys):
    def start():
        raise ConnectionError("port 29500 is in use")

    with pytest.raises(SystemExit) as stopped:
        launch._run_elastic(start)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.strip() == "error: the processes could not be started: port 29500 is in use"


def test_a_process_that_ends_in_the_instant_of_the_signal_was_interrupted(monkeypatch):
    """Its number is given back by then, so there is nothing left to kill."""
    real = subprocess.Popen.wait

    def wait(process, *args, **kwargs):
        monkeypatch.setattr(subprocess.Popen, "wait", real)
        real(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "WORKER", "this")
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    assert launch._run_one([]) == 130


def test_the_environment_is_as_before_when_the_call_is_over(tiny_components, tmp_path):
    before = dict(os.environ)
    models = [f"stable_diffusion_model_path={tiny_components / 'stable-diffusion'}", f"florence2_model_path={tmp_path}"]
    with pytest.raises(SystemExit):
        launch.main(["stage1", *models, f"train_dataset_path={tmp_path}", f"output_dir={tmp_path}", "dry_run=true"])
    assert dict(os.environ) == before


def test_guidance_without_previews_is_reported(capsys):
    config = load_config(CaptionConfig, None, [])
    launch._warn_of_unused(config, ["guidance_scale=3.0", "batch_size=2"])
    assert "guidance_scale=3.0: no effect" in capsys.readouterr().err
    launch._warn_of_unused(load_config(CaptionConfig, None, ["preview_dir=x"]), ["guidance_scale=3.0"])
    launch._warn_of_unused(load_config(Stage1Config, None, []), ["guidance_scale=3.0"])
    assert capsys.readouterr().err == ""


def test_errors_meant_for_the_user_have_no_type(tmp_path):
    assert entry.error_line(ValueError("a\n b")) == "a b"
    assert entry.error_line(KeyError("x")).startswith("KeyError: ")
    lost = RuntimeError(
        "[/x/gloo/gloo/transport/tcp/pair.cc:537] Read error [::1]:4: Connection reset by peer. This is"
    )
    assert entry.error_line(lost).startswith("the connection to another process of the run broke: it was killed, or ")


def test_an_error_of_a_loader_worker_has_no_trace():
    class Broken(torch.utils.data.Dataset):
        def __getitem__(self, index):
            raise ValueError("the stream broke: pass 2")

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match="Traceback") as failure:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert entry.error_line(failure.value) == "the stream broke: pass 2"
    trace = "Caught RemoteError in DataLoader worker process 0.\nvlv.data.remote.RemoteError: s3://b/a.tar: 503"
    assert entry.error_line(RemoteError(trace)) == "s3://b/a.tar: 503"


def test_a_dry_run_needs_no_download(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    here = {"train_dataset_path": str(tmp_path), "val_dataset_path": str(tmp_path), "output_dir": str(tmp_path / "o")}
    config = Stage1Config(**here, stable_diffusion_model_path="./gone/stable-diffusion-3.5-large", dry_run=True)
    config = launch._with_published_configs(dataclasses.replace(config, decoder_resolution=512))
    check_call(config)
    assert config.stable_diffusion_model_path == str(recipes_folder() / "components" / "stable-diffusion-3.5-large")
    note = "stable_diffusion_model_path=./gone/stable-diffusion-3.5-large is not here: sized by its published config"
    assert note in capsys.readouterr().err
    own = dataclasses.replace(config, stable_diffusion_model_path="./gone/own")
    assert launch._with_published_configs(own) == own


def test_a_torchvision_of_another_torch_is_named_behind_what_imported_it():
    def transformers_imports_it():
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'AutoProcessor'.") from error

    with pytest.raises(ModuleNotFoundError) as failure:
        transformers_imports_it()
    assert entry.error_line(failure.value) == (
        "torchvision is installed but does not work here (operator torchvision::nms does not exist): install the one "
        "that fits torch, or pip uninstall torchvision"
    )


def test_unwritable_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_writable("output_dir", tmp_path / "file" / "run")
    check_writable("output_dir", tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path) == ["file"]


def test_help_into_a_closed_pipe_leaves_no_trace():
    reader, writer = os.pipe()
    os.close(reader)
    call = [sys.executable, "-m", "vlv", "stage1", "--help"]
    done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("content", ["[1]", "null", "3"])
def test_a_config_that_is_no_object_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json holds a .*, not an object"):
        require_checkpoint(tmp_path, "stage2")
