"""The one training loop. It knows an objective, a loader and an optimizer; never a stage or a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import cast

import torch
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlv.checkpoints.resume import is_validated, sound_checkpoints
from vlv.memory import is_out_of_memory
from vlv.training.checkpoint import DiskFull
from vlv.training.objective import Batch, Objective
from vlv.training.parts import TrainerSettings, TrainingParts
from vlv.training.processes import seed_step
from vlv.training.state import TrainState
from vlv.training.stopping import TrainingStopped
from vlv.training.window import Window, named_terms, term_means


class TrainingError(RuntimeError):
    """A run that cannot continue; the message says what to set."""


class Trainer:
    """Minimises an objective over the micro-batches of a loader.

    The objective gives sums of losses and what they count; each sum is divided by its count over the whole global
    batch. A mean of micro-batch means would weigh a token of a short caption, or an image beside unreadable ones, more
    than others, and would change with the number of processes and of accumulated batches.
    """

    def __init__(
        self,
        parts: TrainingParts,
        settings: TrainerSettings,
        *,
        state: TrainState,
        lr_at: Callable[[int], float],
        validate: Callable[[TrainState], dict[str, float]],
        resumed: Path | None = None,
    ) -> None:
        """Hold the parts.

        Args:
            state: where the run stands; advanced in place.
            lr_at: learning rate of an optimizer step.
            validate: called on every process at each save; its numbers are logged.
            resumed: the checkpoint that `state` is of, if any. A run that was killed between a save and its validation
                makes up for that.
        """
        self.parts, self.settings, self.state = parts, settings, state
        self.lr_at, self.validate, self.resumed = lr_at, validate, resumed
        self.accelerator, self.objective, self.optimizer = parts.accelerator, parts.objective, parts.optimizer
        self._bare = cast("Objective", parts.accelerator.unwrap_model(parts.objective))
        self._terms = list(self._bare.loss_weights)
        self._weights = self._stack(self._bare.loss_weights)  # [terms], copied to the device once
        self._trained = [parameter for parameter in parts.objective.parameters() if parameter.requires_grad]
        self._window = Window()
        self._skipped_in_a_row = 0
        self._stops = False

    def fit(self) -> TrainState:
        """Train to `num_steps`, saving and validating on the way and at the end.

        Raises:
            TrainingError: the run cannot continue.
            TrainingStopped: it was asked to stop, and has saved.
        """
        try:
            state = self._train()
        except BaseException:
            with suppress(Exception):  # the first failure is the one to show
                self.parts.checkpointer.wait()
            raise
        self.parts.checkpointer.wait()
        return state

    def _train(self) -> TrainState:
        settings, state = self.settings, self.state
        batches = iter(self.parts.loader)
        self.objective.train()
        if self.resumed is not None and not is_validated(self.resumed):
            self._judge(self.resumed)
        self._window.restart(self._count_samples()[0])
        try:
            while state.step < settings.num_steps:
                micro_batches = self._fetch(batches)
                # After the fetch: a loader that starts takes its workers' seed from the same random stream, and a
                # resumed run starts its loader at another step.
                seed_step(settings.seed, state.step, self.accelerator.process_index)
                sound = self._step(micro_batches)
                state.step += 1
                state.samples += settings.global_batch_size
                self.parts.logger.advance(state.step)
                self._count_skipped(sound)
                saves = state.step % settings.save_step == 0 or state.step == settings.num_steps
                if state.step % settings.log_every == 0 or saves:
                    self._log()
                if saves:
                    self._save()
                if self._stops and state.step < settings.num_steps:
                    self._stop(saved=saves)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._memory_advice()) from error
        return state

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """All micro-batches of a step: their counts must be known before the first backward pass."""
        started = time.monotonic()
        micro_batches = []
        for _ in range(self.settings.accumulation):
            batch = next(batches, None)
            if batch is None:
                raise TrainingError(f"the data ended at step {self.state.step} of {self.settings.num_steps}")
            # Pinned memory makes this copy run beside the computation of the step before.
            micro_batches.append(send_to_device(batch, self.accelerator.device, non_blocking=True))
        self._window.waited += time.monotonic() - started
        return micro_batches

    def _step(self, micro_batches: list[Batch]) -> bool:
        """Take an optimizer step; returns whether loss and gradient were finite. If not, the weights stay as they are.

        DeepSpeed steps within its backward pass, so there it is known too late, and weights are what they became.
        """
        # The bare objective: DDP's and FSDP's wrappers pass on forward alone.
        counts = torch.stack([self._stack(self._bare.counts(batch)) for batch in micro_batches]).sum(0)  # [terms]
        counts = self._sum_over_processes(counts)
        # Accelerate's backward() divides by the accumulation, and DDP and FSDP average gradients over processes. The
        # sums are divided by global counts here, so both are multiplied back.
        scale = self.settings.accumulation * self.accelerator.num_processes
        # At least 1: where nothing of a batch can be used, its sums of 0 give no gradient instead of NaN.
        factors = self._weights * scale / counts.clamp(min=1)
        sums, norm = torch.zeros_like(counts), None
        lr = self.lr_at(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        for batch in micro_batches:
            with self.accelerator.accumulate(self.objective):
                terms = self._stack(self.objective(batch))
                self.accelerator.backward((terms * factors).sum())
                sums += terms.detach()
                if self.accelerator.sync_gradients:
                    # Without clipping it only measures: an infinite limit scales nothing.
                    limit = self.settings.max_grad_norm or math.inf
                    norm = self.accelerator.clip_grad_norm_(self._trained, limit)
                    if not self._is_sound(sums, norm):
                        self._skip(micro_batches, sums, counts, norm)
                        return False
                # Accelerate's optimizer skips both but at the step's last micro-batch.
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.parts.average is not None:
            self.parts.average.update()
        self._window.norm = norm
        self._window.add(sums, counts, lr)
        return True

    def _is_sound(self, sums: Tensor, norm: Tensor | float | None) -> bool:
        """Whether loss and gradient norm are finite, on every process; asks in the same message who is to stop.

        Here, once, a step waits for the device: what is not known to be finite must not touch the weights.
        """
        sound = torch.isfinite(sums).all()
        # An fp16 scaler tries factors that are too large, sees that itself, and takes a smaller one.
        if norm is not None and self.accelerator.scaler is None:
            # FSDP's is in shares of the processes.
            whole = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
            sound = sound & whole.isfinite()
        own = torch.stack([(~sound).float(), torch.full_like(sums[0], self.parts.stop.asked)])
        ruined, stops = self._sum_over_processes(own).tolist()
        self._stops = stops > 0  # on all of them, at the same step: a save is a collective
        return ruined == 0

    def _skip(self, micro_batches: list[Batch], sums: Tensor, counts: Tensor, norm: Tensor | float | None) -> None:
        """Drop the gradient, and write down which samples it was of."""
        self.optimizer.zero_grad()
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # it has seen this gradient, and takes no other before
        sums = self._sum_over_processes(sums)
        means = dict(zip(self._terms, term_means(sums.tolist(), counts.tolist()), strict=True))
        loss = sum(weight * means[name] for name, weight in self._bare.loss_weights.items())
        metrics = {"loss": loss} | ({} if norm is None else {"grad_norm": float(norm)})
        samples = [sample for batch in micro_batches for sample in _named(batch)]
        gathered = gather_object(samples) if self.accelerator.num_processes > 1 else samples
        self.parts.logger.skipped(self.state.step + 1, metrics, sorted(gathered))

    def _count_skipped(self, sound: bool) -> None:
        """Count the step that was just taken, or skipped.

        Raises:
            TrainingError: too many were skipped in a row, or all of a run.
        """
        state, limit = self.state, self.settings.max_skipped_steps
        self._skipped_in_a_row = 0 if sound else self._skipped_in_a_row + 1
        state.skipped += not sound
        if self._skipped_in_a_row < limit and not (state.skipped == state.step == self.settings.num_steps):
            return
        self.parts.checkpointer.wait()  # the last one may be being written
        good = next(reversed(sound_checkpoints(self.parts.checkpointer.folder)), None)
        raise TrainingError(
            f"no loss or gradient of the {self._skipped_in_a_row} steps up to {state.step} was finite; "
            f"{self.parts.logger.skipped_path} names their samples. Lower lr, or set precision=fp32; "
            + (f"resume=latest continues from {good.name}" if good else "no good checkpoint is there yet")
        )

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(values, reduction="sum"))

    def _stack(self, terms: Mapping[str, Tensor | float]) -> Tensor:
        values = [torch.as_tensor(terms[name], device=self.accelerator.device).float() for name in self._terms]
        return torch.stack(values)

    def _log(self) -> None:
        """Write a line of metrics; the only place, with saving, where a step waits for the device."""
        window = self._window
        if not window.steps:  # every step since the last line was skipped
            return self.parts.logger.log(self.state.step, {"train/skipped_steps": self.state.skipped})
        local_sums, counts = window.totals()
        sums, counts = self._sum_over_processes(local_sums).tolist(), counts.tolist()
        good, bad, truncated = self._count_samples()
        if not any(counts):
            raise TrainingError(self._nothing_learned())
        means = dict(zip(self._terms, term_means(sums, counts), strict=True))
        loss = sum(weight * means[name] for name, weight in self._bare.loss_weights.items())
        elapsed = time.monotonic() - window.started
        metrics: dict[str, float] = {"train/loss": loss}
        metrics.update(named_terms("train", means, dict(zip(self._terms, counts, strict=True))))
        metrics["train/lr"] = window.lr
        if window.norm is not None:  # DeepSpeed clips in its own step and returns none
            metrics["train/grad_norm"] = float(window.norm)
        metrics["train/images_per_second"] = (good - window.good_before) / elapsed
        metrics["train/data_wait_share"] = window.waited / elapsed
        metrics["train/bad_samples"] = bad
        metrics["train/truncated_samples"] = truncated
        if self.state.skipped:
            metrics["train/skipped_steps"] = self.state.skipped
        self.parts.logger.log(self.state.step, metrics)
        return window.restart(good)

    def _save(self) -> None:
        parts = self.parts
        # A run that is about to stop says that it has saved, so it waits.
        report = None if self.settings.stop_on_full_disk or self._stops else parts.logger.message
        try:
            # The checkpoint holds the raw weights, which training resumes from, with the average beside them.
            path = parts.checkpointer.save(self.objective, self.optimizer, self.state, parts.average, report)
        except DiskFull as error:
            raise TrainingError(f"{error}; resume=latest continues from the last checkpoint") from None
        if report is None:
            parts.logger.message(f"saved {path}")
        # After the save, which goes on meanwhile: a validation that fails must not cost the checkpoint.
        self._judge(path)
        good, bad, truncated = self._count_samples()
        if bad + truncated and parts.samples:
            read = f", and {truncated} truncated ones were read" if truncated else ""
            parts.logger.message(
                f"{bad} of {good + bad} samples could not be used{read}; {parts.samples.path} lists them"
            )
        self._window.restart(good)  # so that saving and validating do not count as slow training

    def _stop(self, saved: bool) -> None:
        """Save where the step has not been saved already, and end.

        Without a validation, for which a scheduler may leave no time: the run that resumes makes up for it.
        """
        parts = self.parts
        if not saved:
            try:
                parts.checkpointer.save(self.objective, self.optimizer, self.state, parts.average)  # and waits
            except DiskFull as error:
                raise TrainingError(f"{error}; resume=latest continues from the last checkpoint") from None
        raise TrainingStopped(f"stopped after step {self.state.step} of {self.settings.num_steps}, which is saved")

    def _judge(self, path: Path) -> None:
        """Validate the weights of a checkpoint, which are those at hand.

        Raises:
            TrainingError: the result is not finite, at the run's last step or where a resume begins: such weights are
                no finished model, and nothing to go on from.
        """
        parts = self.parts
        self.objective.eval()
        with parts.average.applied() if parts.average else nullcontext():
            metrics = self.validate(self.state)
        self.objective.train()
        if metrics:
            parts.logger.log(self.state.step, metrics)
        if parts.checkpointer.judge(path, metrics):
            return
        ruined = f"the validation of {path} is not finite, so its weights are ruined and resume=latest passes over it"
        if path == self.resumed or self.state.step == self.settings.num_steps:
            raise TrainingError(f"{ruined}: lower lr, or set precision=fp32")
        parts.logger.message(ruined)

    def _count_samples(self) -> tuple[int, int, int]:
        """Usable, bad and truncated samples over all processes, since the run's start: differences of them count."""
        samples = self.parts.samples
        if samples is None:
            return self.state.samples, 0, 0
        own = [samples.seen - samples.bad, samples.bad, samples.truncated]
        good, bad, truncated = self._sum_over_processes(torch.tensor(own, device=self.accelerator.device)).tolist()
        return good, bad, truncated

    def _nothing_learned(self) -> str:
        samples = self.parts.samples
        listed = f": {samples.path} lists them with their reasons" if samples else ""
        return (
            f"no sample of the {self._window.steps} steps up to {self.state.step} could be used, so nothing was "
            f"learned{listed}"
        )

    def _memory_advice(self) -> str:
        micro = self.settings.micro_batch_size
        smaller = (
            f"max_micro_batch={max(1, micro // 2)} (the same global batch, more accumulation) or " if micro > 1 else ""
        )
        return (
            f"out of memory with a micro-batch of {micro}: set {smaller}gradient_checkpointing=true or "
            "param_dtype=bf16, or on several GPUs ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml"
        )


def _named(batch: Batch) -> list[tuple[int, str]]:
    """Position in the data order and name of each sample, without padding."""
    positions = cast("Sequence[int]", batch["positions"])
    names = cast("Sequence[str]", batch.get("names") or [""] * len(positions))
    weights = cast("Tensor", batch["weights"]).tolist()
    return [(position, name) for position, name, weight in zip(positions, names, weights, strict=True) if weight]
