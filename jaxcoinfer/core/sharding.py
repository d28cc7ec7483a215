"""One training on all devices of all hosts: environments and batches are divided among them, all
else is on each.

    with jax.set_mesh(sharding.mesh()):
        learned = ppo.train(key, params, hyper, env=env, config=config)

`shard` is for what takes steps: each device steps its environments against its own copy of the
recorded world, without any exchange. `replicate` is for what all need, weights and samples; the
compiler adds the exchange for that. Without a mesh both do nothing. Random draws are the same
whatever the mesh (JAX's default, `jax_threefry_partitionable`), so results differ only by the order
in which floats are summed. Axis: B environments, or places of a batch.
"""

# JAX's own signatures are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

AXIS = "envs"


def init_distributed(
    coordinator: str | None = None, n_processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several that train together; to be called before anything touches a
    device.

    coordinator: `address:port` of process 0, the same for all. With nothing given JAX asks the
    cluster's scheduler.
    """
    # Without an address of its own the coordinator would listen to every network of the machine.
    own = coordinator if process == 0 else None
    jax.distributed.initialize(coordinator, n_processes, process, coordinator_bind_address=own)


def mesh(per_process: int | None = None) -> Mesh:
    """Returns the mesh of all devices of all processes, or of the first per_process of each, for
    `jax.set_mesh`.

    Raises ValueError where a process has fewer.
    """
    chosen = []
    for process in range(jax.process_count()):
        here = jax.local_devices(process_index=process)
        if per_process is not None and not 1 <= per_process <= len(here):
            raise ValueError(
                f"{per_process} devices asked for, process {process} has {len(here)}: ask for 1 "
                f"to {len(here)}; a CPU is split by "
                "XLA_FLAGS=--xla_force_host_platform_device_count=N, set before Python starts."
            )
        chosen += here[:per_process]
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def n_shards() -> int:
    """Returns the number of devices that the mesh of `jax.set_mesh` divides environments among, 1
    without a mesh.
    """
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def shard(tree: Any) -> Any:
    """Divides leaves [B, ...] among the devices of the mesh of `jax.set_mesh`, under jit; returns
    them as they are without a mesh.

    Raises ValueError where B is no multiple of the number of devices.
    """
    n_devices = n_shards()
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[0] % n_devices:
            raise ValueError(
                f"{leaf.shape[0]} cannot be shared out alike over {n_devices} devices: give "
                "a multiple."
            )
    return _placed(tree, PartitionSpec(AXIS))


def replicate(tree: Any) -> Any:
    """Gives every device of the mesh of `jax.set_mesh` a whole copy, under jit; returns the tree as
    it is without a mesh.
    """
    return _placed(tree, PartitionSpec())


def _placed(tree: Any, where: PartitionSpec) -> Any:
    if AXIS not in jax.sharding.get_abstract_mesh().shape:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, where), tree)
