"""All that a checkpoint holds, for comparison with another one."""

from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from anchordetr_jax.checkpoints.checkpoint import load_variables, orbax_context


def saved_arrays(checkpoint: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of one checkpoint's folder, as "model/…" and "training/…", whatever devices they were saved from."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with orbax_context():
        metadata: Any = ocp.checkpointables_metadata(epath.Path(checkpoint)).metadata
    arrays = {}
    for item in ("model", "training"):
        wanted = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device)
            for name, array in metadata[item].items()
        }
        loaded = load_variables(checkpoint, wanted, item)
        arrays.update({f"{item}/{name}": np.asarray(value) for name, value in loaded.items()})
    return arrays
