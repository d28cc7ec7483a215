"""Settings of all tests: the strict modes of JAX on, the CPU as the only backend, property tests
without deadlines.

Strict promotion turns a silent float64 or a silent [K] + [K, T] into an error at the line that does
it.
"""

import os
from importlib import metadata

# Before JAX is imported; GPU checks of the same tests set the variable themselves.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Nearly all the time of the tests goes into compiling; without LLVM's optimisations it is a
    # third less, and half of what is left with the emitters that jaxlib had before 0.11, whose
    # XLA ends where it is given a flag that it does not know.
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if metadata.version("jaxlib").startswith("0.10."):
        fast += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=4"
    os.environ.setdefault("XLA_FLAGS", fast)

os.environ.setdefault("JAXCOINFER_CACHE", "off")  # tests write nothing to the user's home

import hypothesis
import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # JAX reads the folder itself. Of what takes less to compile, writing it down would cost more
    # than it saves.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The first call of a jitted function compiles it, so no deadline fits all examples. Continuous
# integration must not fail on one commit and pass on the same one again, so there the examples are
# fixed.
hypothesis.settings.register_profile(
    "jaxcoinfer", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("jaxcoinfer")
