"""Weights sharded over two processes (gloo): they train, and `final` is written whole."""

import os
import socket
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from tests.models import new_stage1
from tests.unit.models.test_captioner import pair_batch
from vlv import VLVCaptioner
from vlv.checkpoints.retention import Retention
from vlv.config import Stage2Config
from vlv.models.objectives import CaptionObjective
from vlv.recipes.stage2 import build_captioner
from vlv.training.checkpoint import Checkpointer

STEPS = 2


def train(objective, batch):
    optimizer = torch.optim.AdamW([value for value in objective.parameters() if value.requires_grad], lr=1e-3)
    for _ in range(STEPS):
        (sum(objective(batch).values()) / 10).backward()
        optimizer.step()
        optimizer.zero_grad()


def built(config):
    torch.manual_seed(0)
    model = build_captioner(config, torch.float32)
    model.set_dropout(0.0)
    return model, CaptionObjective(model, config.seed)


def shard_train_and_save(rank, config, port, out):
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    # Not a file as the store: the last to close it removes it, and the other one's destructor may then abort.
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    from torch.distributed.tensor import DTensor

    from vlv.models import language_head
    from vlv.training.sharding import shard

    language_head.LOGITS_AT_ONCE = 1_000  # in chunks, whose second computation gathers no weights by itself
    model, objective = built(config)
    batch = pair_batch(model, ["a red circle", "two stars on white"])
    shard(objective, torch.device("cpu"))
    assert all(isinstance(value, DTensor) for value in objective.parameters())
    train(objective, batch)
    accelerator = SimpleNamespace(unwrap_model=lambda module: module, distributed_type=DistributedType.FSDP)
    checkpointer = Checkpointer(out, accelerator, retention=Retention(1), identity={}, write_extras=lambda _: None)
    weights = checkpointer.trained_state(objective)
    if rank == 0:
        whole, _ = built(config)
        whole.load_state_dict(weights, strict=False)
        whole.save_pretrained(out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_the_captioner_of_sharded_weights_is_that_of_whole_ones(tiny_components, tmp_path):
    torch.manual_seed(0)
    new_stage1(tiny_components).save_pretrained(tmp_path / "stage1")
    config = Stage2Config(
        diffusion_model_path=str(tmp_path / "stage1"), qwen_model=str(tiny_components / "qwen"), max_caption_tokens=32
    )
    out = tmp_path / "final"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(shard_train_and_save, (config, port, out), nprocs=2)
    model, objective = built(config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(objective, pair_batch(model, ["a red circle", "two stars on white"]))
    sharded = dict(VLVCaptioner.from_pretrained(out).named_parameters())
    changed = 0
    for name, value in model.named_parameters():
        assert torch.allclose(sharded[name], value, atol=1e-4), name
        changed += not torch.equal(before[name], value)
    assert changed > 20
