"""A language model in a GGUF file, run by llama.cpp: rows of embeddings in, token ids out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlv.checkpoints.identity import CheckpointError
from vlv.llamacpp.library import llama_cpp

Choice = Callable[[Tensor], Tensor]  # a token id for each row [B] of logits [B, V]


def model_settings(api: Any) -> Any:
    """How llama.cpp loads a file; `api` is the package llama_cpp."""
    settings = api.llama_model_default_params()
    # Its products of quantised weights with a processor's AMX end in a segmentation fault (ggml-org/llama.cpp#20824;
    # seen with llama-cpp-python 0.3.36 and q8_0). It takes them for weights in buffers of its own layouts alone.
    if b"AMX_INT8 = 1" in api.llama_print_system_info():
        settings.use_extra_bufts = False
    return settings


class LlamaCppModel(nn.Module):
    """What a captioner has in place of a language model of transformers; it has no parameters of torch's.

    By the functions of llama.cpp's own interface, as the wrapper over them takes tokens alone. The file is mapped into
    memory, not read.

    Shapes: B sequences, Q rows of a prefix, H width, V vocabulary.
    """

    def __init__(self, path: Path) -> None:
        """Load a file.

        Raises:
            CheckpointError: llama.cpp cannot.
        """
        super().__init__()
        self._api = llama_cpp()
        model = self._api.llama_model_load_from_file(os.fsencode(path), model_settings(self._api))
        if model is None:
            raise CheckpointError(
                f"{path} cannot be loaded by llama-cpp-python {self._api.__version__}: export it again, or update that"
            )
        self._model = model
        # Last in, first out: a context is freed before its model.
        self._freed = ExitStack()
        self._freed.callback(self._api.llama_model_free, model)
        weakref.finalize(self, self._freed.close)
        self.width = int(self._api.llama_model_n_embd(model))
        self.vocab_size = int(self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(model)))
        self._context: _Context | None = None

    def get_input_embeddings(self) -> SimpleNamespace:
        """The one thing of an embedding that a captioner is built from: its width."""
        return SimpleNamespace(embedding_dim=self.width)

    def generate(self, prefix: Tensor, limit: int, end: int, choose: Choice) -> list[list[int]]:
        """Token ids after each prefix, up to the end token, which is the last of those that came to it.

        Args:
            prefix: [B, Q, H].
            limit: tokens of each at most.
            end: the token that ends one.
            choose: called for each token with the logits [B, V] of all sequences, also of those that have ended.

        Raises:
            ValueError: more sequences than llama.cpp takes at once.
        """
        count, rows, _ = prefix.shape
        context = self._context_for(count, rows, rows + limit)
        said: list[list[int]] = [[] for _ in range(count)]
        scores = torch.zeros(count, self.vocab_size)
        going = list(range(count))
        context.read_rows(np.ascontiguousarray(prefix.float().cpu().numpy()), scores)
        for position in range(rows, rows + limit):
            chosen = choose(scores).tolist()
            for sequence in going:
                said[sequence].append(chosen[sequence])
            # What has ended is left out of the next pass; the last token needs none, as nothing follows it.
            going = [sequence for sequence in going if chosen[sequence] != end]
            if not going or position + 1 == rows + limit:
                break
            context.read_tokens(going, [chosen[sequence] for sequence in going], position, scores)
        return said

    def _context_for(self, sequences: int, rows: int, length: int) -> _Context:
        """An empty context with so much room: the last one, where it has."""
        if (most := int(self._api.llama_max_parallel_sequences())) < sequences:
            raise ValueError(f"{sequences} captions at once are more than llama.cpp's {most}: set a smaller batch_size")
        context = self._context
        # Kept from batch to batch: making one plans llama.cpp's graphs and takes its memory.
        if context is None or not context.holds(sequences, rows, length):
            if context is not None:
                context.close()
            context = self._context = _Context(self._api, self._model, self.vocab_size, (sequences, rows, length))
            self._freed.push(context)
        context.clear()
        return context


class _Context:
    """llama.cpp's state of several sequences, and the batches that it is given."""

    def __init__(self, api: Any, model: Any, vocab_size: int, room: tuple[int, int, int]) -> None:
        """Make room for so many sequences, rows of each prefix, and positions of each sequence."""
        self._api, self._vocab_size, self._room = api, vocab_size, room
        sequences, rows, length = room
        params = api.llama_context_default_params()
        # Each sequence has an equal share of the cells.
        params.n_ctx = sequences * length
        params.n_seq_max = sequences
        # All prefixes in one pass.
        params.n_batch = params.n_ubatch = sequences * rows
        # As torch has: OMP_NUM_THREADS, and its share of the cores where several processes caption.
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        # The cache in fp32 and the plain attention: what else differs from transformers is the weights' format.
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._stack = ExitStack()
        self._context = api.llama_init_from_model(model, params)
        if self._context is None:
            raise MemoryError(
                f"llama.cpp has no memory for {sequences} captions of {length} rows: set a smaller batch_size"
            )
        self._stack.callback(api.llama_free, self._context)
        self._rows = self._batch(sequences * rows, int(api.llama_model_n_embd(model)))
        self._tokens = self._batch(sequences, 0)

    def holds(self, *room: int) -> bool:
        """Whether there is room for so much."""
        return all(has >= wanted for has, wanted in zip(self._room, room, strict=True))

    def clear(self) -> None:
        """Forget all sequences."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def read_rows(self, rows: np.ndarray, scores: Tensor) -> None:
        """Begin sequences 0 to B - 1 with rows [B, Q, H], and put the logits after them into scores [B, V]."""
        count, length, _ = rows.shape
        batch = self._rows
        np.ctypeslib.as_array(batch.embd, (rows.size,))[:] = rows.reshape(-1)
        places = [(sequence, position) for sequence in range(count) for position in range(length)]
        self._place(batch, places, [position == length - 1 for _, position in places])
        self._decode(batch)
        for sequence in range(count):
            self._read(sequence * length + length - 1, scores[sequence])

    def read_tokens(self, sequences: Sequence[int], tokens: Sequence[int], position: int, scores: Tensor) -> None:
        """Add a token to each of some sequences, and put the logits after it into their rows of scores [B, V]."""
        batch = self._tokens
        np.ctypeslib.as_array(batch.token, (len(tokens),))[:] = tokens
        self._place(batch, [(sequence, position) for sequence in sequences], [True] * len(sequences))
        self._decode(batch)
        for place, sequence in enumerate(sequences):
            self._read(place, scores[sequence])

    def close(self) -> None:
        """Free it; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batch(self, size: int, width: int) -> Any:
        batch = self._api.llama_batch_init(size, width, 1)
        self._stack.callback(self._api.llama_batch_free, batch)
        return batch

    def _place(self, batch: Any, places: Sequence[tuple[int, int]], wanted: Sequence[bool]) -> None:
        """Say of each entry of a batch its sequence and position, and whether its logits are wanted."""
        batch.n_tokens = len(places)
        for entry, (sequence, position) in enumerate(places):
            batch.pos[entry] = position
            batch.n_seq_id[entry] = 1
            batch.seq_id[entry][0] = sequence
            batch.logits[entry] = wanted[entry]

    def _decode(self, batch: Any) -> None:
        if code := self._api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode failed with code {code}")

    def _read(self, entry: int, scores: Tensor) -> None:
        # Copied: the next decode writes over them.
        logits = np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, entry), (self._vocab_size,))
        scores.copy_(torch.from_numpy(logits))
