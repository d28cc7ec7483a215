"""Every program that the benchmarks time can be compiled for a GPU: it is lowered for one, here,
where there is none.
"""

import jax
import pytest
from jax import export

from benchmarks import cases

KINDS = {
    "environments": (cases.environments, 4),
    "twins": (cases.twins, 4),
    "bounds of a world": (cases.bounds, 1),
    "bounds of a batch": (cases.bounds, 4),
    "learners": (cases.learners, 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lowers_to_cuda(kind):
    make, size = KINDS[kind]
    names = []
    for case in make(size):
        lowered = export.export(jax.jit(case.loop), platforms=["cuda"])(*case.arguments)
        assert lowered.platforms == ("cuda",)
        assert "callback" not in lowered.mlir_module(), case.name  # nothing goes back to the host
        names.append(case.name)
    assert names and len(set(names)) == len(names)
