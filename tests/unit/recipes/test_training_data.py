import types

import numpy as np
import pytest
import torch

from vlv.recipes.training_data import _require_agreement


@pytest.mark.parametrize(("sizes", "other"), [([3, 4], [3, 4]), ([3, 4], [3]), ([3, 4], [4, 3])])
def test_processes_must_see_the_same_shards(sizes, other):
    """A parquet file that one machine cannot read would shift that process's order against the others'."""
    sources = [types.SimpleNamespace(shard_sizes=np.array(found, dtype=np.int64)) for found in (sizes, other)]
    digests = []

    def gather(own):
        digests.append(own)
        return torch.cat(digests)

    accelerator = types.SimpleNamespace(device=torch.device("cpu"), gather=gather)
    _require_agreement("data", sources[0], accelerator)
    if sizes == other:
        _require_agreement("data", sources[1], accelerator)
    else:
        with pytest.raises(ValueError, match="data does not hold the same samples for every process"):
            _require_agreement("data", sources[1], accelerator)
