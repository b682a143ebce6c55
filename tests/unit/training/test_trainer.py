"""The loop on a toy objective: a linear model whose exact gradients are known."""

import json
import resource
import shutil
import threading
import time
import types

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from vlv.atomic import temporary_folder
from vlv.checkpoints.resume import find_checkpoint, is_validated, list_checkpoints
from vlv.checkpoints.retention import Retention
from vlv.training import whole as whole_checkpoint
from vlv.training.average import WeightAverage
from vlv.training.checkpoint import Checkpointer
from vlv.training.metrics import MetricLogger
from vlv.training.optim import build_optimizer
from vlv.training.parts import TrainerSettings, TrainingParts
from vlv.training.state import TrainState
from vlv.training.trainer import Trainer, TrainingError
from vlv.training.validation import validation_loss


class Toy(torch.nn.Module):
    """Squared distance of a weight to each sample, beside a frozen part with dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.weight = torch.nn.Parameter(torch.zeros(2))
        self.model.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.dropout = torch.nn.Dropout(dropout)
        self.loss_weights = {"distance": 1.0}

    @staticmethod
    def counts(batch):
        return {"distance": batch["weights"].sum()}

    def forward(self, batch):
        distance = (self.dropout(self.model.weight) * self.model.frozen - batch["x"]).pow(2).sum(1)
        return {"distance": (distance * batch["weights"]).sum()}


def data(samples):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4096, 2, generator=generator)[:samples]


def batches(start, steps, accumulation, micro=4, weights=None):
    values = data(4096)
    weights = torch.ones(4096) if weights is None else weights
    for number in range(steps * accumulation):
        rows = slice(start + number * micro, start + (number + 1) * micro)
        errors = [None if weight else "broken" for weight in weights[rows]]
        positions = list(range(rows.start, rows.stop))
        yield {"x": values[rows], "weights": weights[rows], "positions": positions, "errors": errors}


def run(folder, *, num_steps=6, accumulation=1, micro=4, state=None, resume=None, dropout=0.0, lr=0.1, **changes):
    torch.manual_seed(1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    objective = Toy(dropout)
    optimizer = build_optimizer(objective, lr, weight_decay=0.0)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    write_extras = changes.pop("write_extras", lambda path: None)
    retention = changes.pop("retention", Retention(last=2))
    checkpointer = Checkpointer(
        folder / "checkpoints", accelerator, retention=retention, identity={"kind": "toy"}, write_extras=write_extras
    )
    found = find_checkpoint(resume, folder / "checkpoints")
    decay = changes.pop("ema_decay", 0.0)
    average = WeightAverage(accelerator.unwrap_model(objective), decay) if decay else None
    state = checkpointer.load(found, objective, optimizer, average) if found else TrainState()
    settings = TrainerSettings(
        num_steps=num_steps,
        global_batch_size=micro * accumulation,
        accumulation=accumulation,
        micro_batch_size=micro,
        max_grad_norm=changes.pop("max_grad_norm", 0.0),
        save_step=changes.pop("save_step", 3),
        log_every=changes.pop("log_every", 1),
        max_skipped_steps=changes.pop("max_skipped_steps", 10),
        stop_on_full_disk=changes.pop("stop_on_full_disk", False),
        seed=5,
    )
    loader = changes.pop("loader", None) or batches(state.samples, num_steps - state.step, accumulation, micro)
    validated = found is None or is_validated(found)
    logger = MetricLogger(folder, enabled=True, num_steps=num_steps, first_step=state.step, validated=validated)
    parts = TrainingParts(
        accelerator=accelerator,
        objective=objective,
        optimizer=optimizer,
        loader=loader,
        checkpointer=checkpointer,
        logger=logger,
        samples=changes.pop("samples", None),
        average=average,
    )
    trainer = Trainer(
        parts,
        settings,
        state=state,
        lr_at=lambda step: lr * (1 - step / num_steps),
        validate=changes.pop(
            "validate", lambda state: {"val/loss": float(state.step), "val/weight": float(objective.model.weight[0])}
        ),
        resumed=found,
    )
    trainer.fit()
    return objective, trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_first_step_is_adamw_on_the_mean_gradient(tmp_path):
    objective, _ = run(tmp_path, num_steps=1)
    gradient = -2 * data(4).mean(0)
    assert torch.allclose(objective.model.weight, -0.1 * gradient.sign(), atol=1e-5)
    first = lines(tmp_path)[0]
    assert first["train/loss"] == pytest.approx(data(4).pow(2).sum(1).mean().item(), rel=1e-5)
    assert first["train/grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_a_quiet_step_reads_one_value_from_the_device(tmp_path, monkeypatch):
    """Each read waits for all that the device has to do."""
    reads = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        own = getattr(torch.Tensor, name)

        def read(tensor, *arguments, _own=own, _name=name, **settings):
            reads.append(_name)
            return _own(tensor, *arguments, **settings)

        monkeypatch.setattr(torch.Tensor, name, read)
    counts, quiet = [], {"accumulation": 2, "save_step": 99, "log_every": 99, "max_grad_norm": 1.0}
    for steps in (4, 10):
        loader = list(batches(0, steps, 2))  # which reads values itself
        reads.clear()
        run(tmp_path / str(steps), num_steps=steps, loader=loader, **quiet)
        counts.append(len(reads))
    assert counts[1] - counts[0] == 6


def test_accumulation_changes_nothing(tmp_path):
    whole, _ = run(tmp_path / "a", accumulation=1, micro=8)
    parts, _ = run(tmp_path / "b", accumulation=4, micro=2)
    assert torch.allclose(whole.model.weight, parts.model.weight, atol=1e-6)
    for one, other in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        if "train/loss" in one:
            assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)


def test_means_are_over_real_samples_of_the_whole_batch(tmp_path):
    weights = torch.ones(4096)
    weights[1:4] = 0  # the first micro-batch has one real sample, the second four
    run(tmp_path, num_steps=1, accumulation=2, micro=4, loader=batches(0, 1, 2, 4, weights), save_step=100)
    real = data(8)[[0, 4, 5, 6, 7]]
    assert lines(tmp_path)[0]["train/loss"] == pytest.approx(real.pow(2).sum(1).mean().item(), rel=1e-5)
    assert lines(tmp_path)[0]["train/grad_norm"] == pytest.approx((2 * real.mean(0)).norm().item(), rel=1e-5)


def test_resume_is_bit_exact_with_dropout(tmp_path):
    whole, _ = run(tmp_path / "whole", num_steps=6, dropout=0.5)
    run(tmp_path / "parts", num_steps=6, dropout=0.5)
    newest = list_checkpoints(tmp_path / "parts" / "checkpoints")[-1]
    assert newest.name == "step_00000006"
    shutil.rmtree(newest)
    again, trainer = run(tmp_path / "parts", num_steps=6, dropout=0.5, resume="latest")
    assert torch.equal(whole.model.weight, again.model.weight)
    assert (trainer.state.step, trainer.state.samples) == (6, 24)


def test_the_average_is_the_textbooks_and_resumes(tmp_path):
    objective, _ = run(tmp_path / "plain", num_steps=6)
    _, trainer = run(tmp_path / "averaged", num_steps=6, ema_decay=0.9)
    assert torch.equal(trainer._bare.model.weight, objective.model.weight)  # it changes nothing in training
    history = []
    for name in ("step_00000003", "step_00000006"):
        folder = tmp_path / "averaged" / "checkpoints" / name
        history.append(load_file(folder / "average.safetensors")["model.weight"])
        assert not torch.equal(history[-1], load_file(folder / "model.safetensors")["weight"])
    shutil.rmtree(tmp_path / "averaged" / "checkpoints" / "step_00000006")
    _, again = run(tmp_path / "averaged", num_steps=6, ema_decay=0.9, resume="latest")
    assert torch.equal(again.parts.average.state()["model.weight"], history[-1])
    validated = [line["val/weight"] for line in lines(tmp_path / "averaged") if "val/weight" in line]
    assert validated[-1] == pytest.approx(history[-1][0].item(), rel=1e-6)


def test_average_by_hand():
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage(module, 0.9)
    for value in (1.0, 2.0):
        module.weight.data.fill_(value)
        average.update()
    assert average.state()["weight"].item() == pytest.approx(0.9 * 0.1 * 1.0 + 0.1 * 2.0)
    with average.applied():
        assert module.weight.item() == pytest.approx(0.29)
    assert module.weight.item() == 2.0


def test_frozen_tensors_stay_and_are_not_saved(tmp_path):
    objective, _ = run(tmp_path)
    assert torch.equal(objective.model.frozen, torch.ones(2))
    saved = load_file(list_checkpoints(tmp_path / "checkpoints")[-1] / "model.safetensors")
    assert list(saved) == ["weight"]


def test_old_checkpoints_are_removed(tmp_path):
    run(tmp_path, num_steps=12)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000009", "step_00000012"]


def test_lr_is_logged_by_optimizer_step(tmp_path):
    run(tmp_path, accumulation=3)
    rates = [line["train/lr"] for line in lines(tmp_path) if "train/lr" in line]
    assert rates == pytest.approx([0.1 * (1 - step / 6) for step in range(6)])


def test_clipping_limits_the_step_and_reports_the_norm_before(tmp_path):
    run(tmp_path, num_steps=1, max_grad_norm=1e-3)
    assert lines(tmp_path)[0]["train/grad_norm"] > 1e-3


def ruined(numbers, steps, value=float("nan")):
    """The usual batches, where the samples of some steps are not finite."""
    for number, batch in enumerate(batches(0, steps, 1)):
        batch["names"] = [f"{position}.jpg" for position in batch["positions"]]
        if number in numbers:
            batch["x"] = torch.full((4, 2), value)
        yield batch


def never(constant):
    raise AssertionError(f"{constant} is not JSON")


def strict_lines(path):
    return [json.loads(line, parse_constant=never) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])  # 1e30: its square is not finite
def test_a_ruined_step_changes_no_weight_and_is_named(tmp_path, value):
    _, trainer = run(tmp_path, num_steps=3, loader=ruined([2], 3, value), save_step=2)
    before, after = (
        load_file(tmp_path / "checkpoints" / name / "model.safetensors") for name in ("step_00000002", "step_00000003")
    )
    assert torch.equal(before["weight"], after["weight"])
    assert (trainer.state.skipped, trainer.state.step, trainer.state.samples) == (1, 3, 12)
    (row,) = strict_lines(tmp_path / "skipped_steps.jsonl")
    assert row["step"] == 3
    assert row["samples"] == [[position, f"{position}.jpg"] for position in range(8, 12)]
    rows = strict_lines(tmp_path / "metrics.jsonl")
    assert {"step": 3, "train/skipped_steps": 1} in rows


def test_a_resumed_run_after_a_ruined_step_is_bit_exact(tmp_path):
    whole, _ = run(tmp_path / "whole", num_steps=6, loader=ruined([1, 4], 6))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000006")
    rest = list(ruined([1, 4], 6))[3:]
    resumed, trainer = run(tmp_path / "cut", num_steps=6, loader=rest, resume="latest")
    assert torch.equal(whole.model.weight, resumed.model.weight)
    assert trainer.state.skipped == 2


def test_too_many_ruined_steps_in_a_row_stop_at_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"of the 3 steps up to 6 was finite; .*continues from step_00000003"):
        run(tmp_path, num_steps=9, loader=ruined([3, 4, 5], 9), max_skipped_steps=3)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000003"]
    run(tmp_path / "apart", num_steps=9, loader=ruined([1, 2, 4, 5], 9), max_skipped_steps=3)


def test_a_run_of_ruined_steps_alone_is_not_finished(tmp_path):
    with pytest.raises(TrainingError, match=r"steps up to 2 was finite.*no good checkpoint"):
        run(tmp_path, num_steps=2, loader=ruined([0, 1], 2))
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_a_checkpoint_of_ruined_weights_is_passed_over_and_pushes_no_good_one_out(tmp_path):
    """A rate far too large: loss and gradient of its steps are finite, and the weights they leave are not."""

    def validate(state):
        return {"val/loss": float("nan") if state.step >= 4 else 1.0}

    with pytest.raises(TrainingError, match=r"step_00000006 is not finite, so its weights are ruined"):
        run(tmp_path, num_steps=6, save_step=1, validate=validate)
    folder = tmp_path / "checkpoints"
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["2", "3", "4", "5", "6"]
    assert find_checkpoint("latest", folder).name == "step_00000003"
    rows = strict_lines(tmp_path / "metrics.jsonl")
    assert [row["val/loss"] for row in rows if "val/loss" in row] == [1, 1, 1, None, None, None]


@pytest.mark.parametrize("after_the_line", [False, True])
@pytest.mark.parametrize("step", [3, 6])
def test_a_validation_that_a_kill_cost_is_made_up_for(tmp_path, step, after_the_line, monkeypatch):
    """Killed after a save and before the end of its validation, in the middle of a run and at its last step."""
    whole, _ = run(tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(self, path, metrics):
        raise Killed

    def validate(state):
        if state.step == step:
            raise Killed
        return {"val/loss": float(state.step), "val/weight": 0.0}

    with monkeypatch.context() as patch:
        if after_the_line:
            patch.setattr(Checkpointer, "judge", kill)
        changes = {"save_step": step} if after_the_line else {"validate": validate}
        with pytest.raises(Killed):
            run(tmp_path / "cut", **changes)
    resumed, _ = run(tmp_path / "cut", resume="latest", save_step=step if after_the_line else 3)
    assert torch.equal(whole.model.weight, resumed.model.weight)
    rows = [row for row in lines(tmp_path / "cut") if "val/loss" in row and row["step"] == step]
    assert rows == [{"step": step, "val/loss": step, "val/weight": rows[0]["val/weight"]}]
    expected = [row for row in lines(tmp_path / "whole") if row["step"] == step and "val/loss" in row]
    assert rows == expected
    assert is_validated(tmp_path / "cut" / "checkpoints" / f"step_0000000{step}")


@pytest.fixture
def full_disk():
    """Switches a full disk on and off: by the limit on a file's size that a process can set for itself."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def switch(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 if full else most, most))

    yield switch
    switch(False)


@pytest.mark.parametrize("stops", [False, True])
def test_a_full_disk_costs_a_save_and_not_the_run(tmp_path, full_disk, stops, capsys):
    """It fills up in the middle of the save at step 4, and has room again in step 6."""
    saves = []

    def write_extras(path):
        saves.append(path)
        full_disk(len(saves) == 2)

    def emptied():
        for number, batch in enumerate(batches(0, 6, 1)):
            if number == 5:
                while len(saves) < 2 or temporary_folder(tmp_path / "full" / "checkpoints" / "step_00000004").exists():
                    time.sleep(0.01)  # it is written beside training
                full_disk(False)
            yield batch

    changes = {"save_step": 2, "write_extras": write_extras, "loader": emptied(), "stop_on_full_disk": stops}
    whole, _ = run(tmp_path / "whole")
    if stops:
        with pytest.raises(TrainingError, match=r"no room for step_00000004 .*resume=latest continues"):
            run(tmp_path / "full", **changes)
        full_disk(False)
        assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == ["step_00000002"]
        return
    objective, _ = run(tmp_path / "full", **changes)
    assert torch.equal(whole.model.weight, objective.model.weight)
    assert "no room for step_00000004 ([Errno 27] File too large); training goes on" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert names == ["step_00000002", "step_00000006"]
    losses = [
        [row["train/loss"] for row in lines(tmp_path / name) if "train/loss" in row] for name in ("whole", "full")
    ]
    assert losses[0] == losses[1]  # lines that did not fit came later


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The write of step 2 ends after step 5: it holds the weights of step 2, and the last save waits for it."""
    expected, _ = run(tmp_path / "short", save_step=2)
    until, order = threading.Event(), []

    def write_extras(path):
        order.append(f"writes {path.name[-1]}")
        if len(order) == 1:
            assert until.wait(60)

    def loader():
        for number, batch in enumerate(batches(0, 6, 1)):
            order.append(f"step {number + 1}")
            if number == 3:
                until.set()
            yield batch

    run(tmp_path / "long", loader=loader(), write_extras=write_extras, save_step=2, retention=Retention(0))
    assert order.index("step 4") < order.index("writes 4") < order.index("writes 6")
    for step in (4, 6):
        files = [tmp_path / name / f"checkpoints/step_0000000{step}/model.safetensors" for name in ("short", "long")]
        assert files[0].read_bytes() == files[1].read_bytes()
    weights = load_file(tmp_path / "long" / "checkpoints/step_00000002/model.safetensors")["weight"]
    assert not torch.equal(weights, expected.model.weight)
    assert all(is_validated(path) for path in list_checkpoints(tmp_path / "long" / "checkpoints"))


def test_a_write_that_fails_in_the_background_ends_the_run(tmp_path):
    def write_extras(path):
        raise PermissionError(13, "no", str(path))

    with pytest.raises(PermissionError):
        run(tmp_path, num_steps=3, write_extras=write_extras)


def test_copies_that_do_not_fit_into_memory_are_not_made(tmp_path, monkeypatch):
    run(tmp_path / "copied")
    monkeypatch.setattr(whole_checkpoint, "available_memory", lambda: 10)
    order = []

    def loader():
        for number, batch in enumerate(batches(0, 6, 1)):
            order.append(number + 1)
            yield batch

    run(tmp_path / "waiting", loader=loader(), write_extras=lambda path: order.append("writes"))
    assert order == [1, 2, 3, "writes", 4, 5, 6, "writes"]
    for name in ("model", "optimizer"):
        path = f"checkpoints/step_00000006/{name}.safetensors"
        assert (tmp_path / "copied" / path).read_bytes() == (tmp_path / "waiting" / path).read_bytes()


def test_free_space_is_looked_at_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=3))
    written = []
    run(tmp_path, num_steps=1, write_extras=written.append)
    assert "bytes are needed and 3 are free); training goes on" in capsys.readouterr().err
    assert not written
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_out_of_memory_names_the_micro_batch(tmp_path, monkeypatch):
    def fail(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Toy, "forward", fail)
    with pytest.raises(TrainingError, match=r"micro-batch of 4: set max_micro_batch=2 .*gradient_checkpointing"):
        run(tmp_path)


def test_other_errors_are_not_renamed(tmp_path, monkeypatch):
    def fail(self, batch):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Toy, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(tmp_path)


def test_data_that_ends_early_is_reported(tmp_path):
    with pytest.raises(TrainingError, match="the data ended at step 2 of 6"):
        run(tmp_path, loader=batches(0, 2, 1))


def test_a_checkpoint_of_another_identity_is_refused(tmp_path):
    run(tmp_path)
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    state = json.loads((path / "trainer_state.json").read_text())
    state["identity"] = {"kind": "other"}
    del state["files"]  # its own digest among them, which would tell
    (path / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="kind=other, this run has toy"):
        run(tmp_path, resume="latest")


def test_an_unfinished_checkpoint_is_not_taken(tmp_path):
    run(tmp_path)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    (newest / "trainer_state.json").unlink()
    assert list_checkpoints(tmp_path / "checkpoints")[-1] != newest


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path):
    def validate(state):
        return {"val/loss": abs(state.step - 4.0)}

    run(tmp_path, num_steps=8, save_step=2, validate=validate, retention=Retention(1, best="val/loss"))
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step_00000004", "step_00000008"]
    with pytest.raises(ValueError, match="keep_best=val/f1 is no metric of the validation: give val/loss"):
        run(tmp_path / "other", validate=validate, retention=Retention(best="val/f1"))
    assert len(list_checkpoints(tmp_path / "other" / "checkpoints")) == 1  # and is not lost by it


def test_validation_is_a_mean_over_real_samples():
    accelerator = Accelerator(cpu=True)
    weights = torch.ones(4096)
    weights[6:8] = 0
    got = validation_loss(accelerator, Toy().eval(), batches(0, 2, 1, 4, weights))
    assert got == {"val/loss": pytest.approx(data(6).pow(2).sum(1).mean().item(), rel=1e-5), "val/bad_samples": 2}
    with pytest.raises(ValueError, match="none of the 8 validation samples"):
        validation_loss(accelerator, Toy().eval(), batches(0, 2, 1, 4, torch.zeros(4096)))


class Counted:
    """A loader that counts what it gives, as the data's own log does."""

    def __init__(self, loader, path):
        self.loader, self.path, self.seen, self.bad, self.truncated = loader, path, 0, 0, 0

    def __iter__(self):
        for batch in self.loader:
            self.seen += len(batch["errors"])
            self.bad += sum(error is not None for error in batch["errors"])
            yield batch


def test_bad_samples_are_counted_where_a_run_looks(tmp_path, capsys):
    weights = torch.ones(4096)
    weights[1:4] = 0
    loader = Counted(batches(0, 6, 1, 4, weights), tmp_path / "bad.jsonl")
    run(tmp_path, loader=loader, samples=loader)
    logged = [line["train/bad_samples"] for line in lines(tmp_path) if "train/bad_samples" in line]
    assert logged == [3] * 6
    printed = capsys.readouterr().err
    assert f"3 of 12 samples could not be used; {tmp_path / 'bad.jsonl'} lists them" in printed
    assert "3 of 24 samples" in printed
    assert "truncated_samples" not in printed  # 0 of them is the normal case


def test_images_per_second_are_of_good_samples(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("vlv.training.window.time.monotonic", lambda: next(clock))
    speeds = []
    for bad in (0, 3):
        weights = torch.ones(4096)
        weights[:bad] = 0
        loader = Counted(batches(0, 1, 1, 4, weights), tmp_path / "bad.jsonl")
        run(tmp_path / str(bad), num_steps=1, loader=loader, samples=loader)
        speeds.append(lines(tmp_path / str(bad))[0]["train/images_per_second"])
    assert speeds[0] == pytest.approx(4 * speeds[1])


def test_steps_without_a_usable_sample_end_the_run(tmp_path):
    loader = Counted(batches(0, 6, 1, 4, torch.zeros(4096)), tmp_path / "bad.jsonl")
    with pytest.raises(TrainingError, match=r"no sample of the 1 steps up to 1 could be used.*bad\.jsonl lists them"):
        run(tmp_path, loader=loader, samples=loader)
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_truncated_samples_are_counted_beside_the_bad_ones(tmp_path, capsys):
    loader = Counted(batches(0, 6, 1, 4), tmp_path / "bad.jsonl")
    loader.truncated = 2
    run(tmp_path, loader=loader, samples=loader)
    assert {line["train/truncated_samples"] for line in lines(tmp_path) if "train/loss" in line} == {2}
    assert "could not be used, and 2 truncated ones were read;" in capsys.readouterr().err


def test_step_counts_are_copied_whatever_the_device():
    """Optimizers keep them on the CPU, where gathering from a GPU does not copy them."""
    accelerator, objective = Accelerator(cpu=True), Toy()
    optimizer = torch.optim.AdamW([objective.model.weight])
    objective.model.weight.grad = torch.ones(2)
    optimizer.step()
    files = whole_checkpoint.gather(accelerator, objective, optimizer, None)
    kept = whole_checkpoint.copied(files, torch.device("cuda"))["optimizer.safetensors"]
    optimizer.step()
    assert kept["step.model.weight"] == 1
