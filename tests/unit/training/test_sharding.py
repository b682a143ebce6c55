"""Stage 1 with a frozen decoder that is shared out over two processes, against the same run under DDP.

Accelerate switches FSDP off on the CPU; the processes here say that it is on, so that the run takes the way it takes on
GPUs, through torch's own `fully_shard`.
"""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlv import VLVAutoEncoder
from vlv.config import Stage1Config

STEPS = 3


def train(rank, config, port, sharded):
    os.environ.update(
        HF_HUB_OFFLINE="1",
        ACCELERATE_USE_CPU="true",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    from vlv.training import processes

    if sharded:
        processes.is_sharded = lambda accelerator: True
    from accelerate.state import AcceleratorState

    AcceleratorState.fsdp_plugin = SimpleNamespace(reshard_after_forward=True, cpu_offload=None)
    from torch.distributed.tensor import DTensor

    from scripts import assembly, train_stage1

    distribute = assembly.distribute

    def distribute_and_look(accelerator, objective, build):
        objective, optimizer = distribute(accelerator, objective, build)
        bare = accelerator.unwrap_model(objective)
        for part in ("decoder.transformer", "decoder.conditioner", "encoder"):
            kinds = {isinstance(value, DTensor) for value in bare.model.get_submodule(part).parameters()}
            assert kinds == {sharded}, part
        assert not any(isinstance(value, DTensor) for value in bare.model.decoder.vae.parameters())
        return objective, optimizer

    assembly.distribute = distribute_and_look
    train_stage1.run(config)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(config, sharded):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train, (config, port, sharded), nprocs=2)
    return [json.loads(line) for line in Path(config.output_dir, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.distributed
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_sharded_decoder_gives_the_losses_of_ddp(tiny_components, sample_photos, tmp_path, precision, tolerance):
    from vlv.models.tiny_components import SENTENCES
    from vlv.models.tiny_decoders import write_stable_diffusion_3

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
                "global_batch_size": 4,
                "num_gpus": 2,
                "num_workers": 0,
                "num_queries": 12,
                "decoder_resolution": 64,
                "encoder_resolution": 128,
                "dropout": 0.0,
                "gradient_checkpointing": True,
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
    for name, value in models[0].items():
        assert torch.allclose(models[1][name], value, atol=4e-3 if precision == "bf16" else 2e-4), name
    # The sharded run goes on from its own checkpoint.
    more = run(config("sharded", num_steps=STEPS + 1, lr_schedule_steps=STEPS, resume="latest"), sharded=True)
    assert [line["step"] for line in more][-1] == STEPS + 1
