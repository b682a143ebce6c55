"""Stage 1 with a frozen decoder that is shared out over two processes, against the same run under DDP.

Accelerate switches FSDP off on the CPU; the processes here say that it is on, so that the run takes the way it takes on
GPUs, through torch's own `fully_shard`.
"""

import faulthandler
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlv import VLVAutoEncoder
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.checkpoints.schema import require_checkpoint
from vlv.config import Stage1Config

STEPS = 3


def train(rank, config, port, sharded, processes):
    os.environ.update(
        HF_HUB_OFFLINE="1",
        ACCELERATE_USE_CPU="true",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    faulthandler.enable()
    torch.set_num_threads(1)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    if sharded:
        Accelerator.distributed_type = property(lambda accelerator: DistributedType.FSDP)
        AcceleratorState.is_fsdp2 = property(lambda state: True)
        AcceleratorState.fsdp_plugin = SimpleNamespace(reshard_after_forward=True, cpu_offload=None, fsdp_version=2)
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from vlv.recipes import stage1
    from vlv.recipes import training_run as assembly

    distribute = assembly.distribute

    def distribute_and_look(accelerator, objective, build):
        objective, optimizer = distribute(accelerator, objective, build)
        bare = accelerator.unwrap_model(objective)
        for part in ("decoder.transformer", "decoder.conditioner", "encoder"):
            kinds = {isinstance(value, DTensor) for value in bare.model.get_submodule(part).parameters()}
            assert kinds == {sharded}, part
        assert not any(isinstance(value, DTensor) for value in bare.model.decoder.vae.parameters())
        blocks = bare.model.decoder.transformer.transformer_blocks
        assert all(isinstance(block, FSDPModule) == sharded for block in blocks)
        return objective, optimizer

    assembly.distribute = distribute_and_look
    stage1.train(config)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # At once, without Python's finalization. Device meshes keep the groups, whose threads drop the last collective's
    # tensors after it has ended: where Python is being finalized by then (a busy machine), the process aborts, now and
    # then, with "terminate called without an active exception".
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run(config, sharded, processes=2):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train, (config, port, sharded, processes), nprocs=processes)
    return [json.loads(line) for line in Path(config.output_dir, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.distributed
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_sharded_decoder_gives_the_losses_of_ddp(tiny_components, sample_photos, tmp_path, precision, tolerance):
    from vlv.testing.components import SENTENCES
    from vlv.testing.decoders import write_stable_diffusion_3

    torch.manual_seed(0)
    write_stable_diffusion_3(tmp_path / "sd3", list(SENTENCES))

    def config(name, **settings):
        return Stage1Config(
            **{
                "train_dataset_path": str(sample_photos),
                "val_dataset_path": str(sample_photos),
                "stable_diffusion_model_path": str(tmp_path / "sd3"),
                "florence2_model_path": str(tiny_components / "florence2"),
                "output_dir": str(tmp_path / name),
                "lr": 1e-3,
                "num_steps": STEPS,
                "save_step": STEPS,
                "global_batch_size": 8,
                "max_micro_batch": 2,  # two forward passes a step: gradients are shared out after the second alone
                "num_gpus": 2,
                "num_workers": 0,
                "num_queries": 12,
                "decoder_resolution": 64,
                "encoder_resolution": 128,
                "dropout": 0.0,
                "gradient_checkpointing": "on",
                "val_pictures": 0,
                "log_every": 1,
                "precision": precision,  # bf16: the frozen weights are kept in it, the trained ones are not
                **settings,
            }
        )

    whole, sharded = run(config("ddp"), sharded=False), run(config("sharded"), sharded=True)
    assert len(whole) == len(sharded) == STEPS + 1
    for one, other in zip(whole, sharded, strict=True):
        for key in ("train/loss", "train/grad_norm", "val/loss"):
            assert (key in one) == (key in other)
            if key in one:
                assert other[key] == pytest.approx(one[key], rel=tolerance), (key, one["step"])
    assert whole[0]["train/loss"] != whole[1]["train/loss"]
    models = [VLVAutoEncoder.from_pretrained(tmp_path / name / "final").trained_state() for name in ("ddp", "sharded")]
    assert models[0].keys() == models[1].keys()
    if precision == "bf16":  # AdamW's first steps, of one size whatever the gradient's, hide what differs
        return
    assert all(torch.allclose(models[1][name], value, atol=2e-4) for name, value in models[0].items())
    # The sharded run goes on with one process that shares nothing out, and then with two again.
    expected = run(config("ddp", **longer(2)), sharded=False)
    run(config("sharded", **longer(1), num_gpus=1), sharded=False, processes=1)
    found = run(config("sharded", **longer(2)), sharded=True)
    assert [lines[-1]["step"] for lines in (expected, found)] == [STEPS + 2] * 2
    for key in ("train/loss", "val/loss"):
        values = [[row[key] for row in lines if key in row] for lines in (found, expected)]
        # The whole run validates at its last step, the other one also at that of its one process.
        assert values[0][-1] == pytest.approx(values[1][-1], rel=tolerance)
    kinds = {path.name: {file.name for file in path.iterdir()} for path in (tmp_path / "sharded/checkpoints").iterdir()}
    shares = [f"step_0000000{step}" for step in (STEPS, STEPS + 2)]
    assert all({"shares", "trainer_state.json"} <= kinds[name] for name in shares)
    assert all("model.safetensors" not in kinds[name] for name in shares)
    assert "model.safetensors" in kinds[f"step_0000000{STEPS + 1}"]
    files = sorted(path.name for path in (tmp_path / "sharded/checkpoints" / shares[0] / "shares").iterdir())
    assert files == [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    facts = [describe_checkpoint(tmp_path / "sharded/checkpoints" / f"step_0000000{STEPS + step}") for step in (0, 1)]
    assert facts[0]["parameters"] == facts[1]["parameters"]
    with pytest.raises(
        CheckpointError, match="is for resuming alone, as its weights are sharded; give <output_dir>/final"
    ):
        require_checkpoint(tmp_path / "sharded/checkpoints" / shares[0], "stage1")


def longer(steps):
    return {"num_steps": STEPS + steps, "lr_schedule_steps": STEPS, "resume": "latest", "allow_changes": True}
