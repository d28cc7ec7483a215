"""Environments in the form that other libraries expect. Those libraries are imported only once one
of these functions or classes is used.

All are thin: the transition is the environment's own. Trainers that know a single `done` flag take
the end of a record for the end of the world, which biases what they learn of the last steps; those
that know truncation do not.
"""

from jaxcoinfer.adapters.for_gymnasium import gymnasium_env, gymnasium_vector
from jaxcoinfer.adapters.for_gymnax import Gymnax, GymnaxFive
from jaxcoinfer.adapters.for_jaxmarl import jaxmarl_env

__all__ = ["Gymnax", "GymnaxFive", "gymnasium_env", "gymnasium_vector", "jaxmarl_env"]
