"""Faces that other ecosystems expect of an environment. Nothing of theirs is imported before a face
is asked for.

All are thin: the transition is the environment's own. Trainers that know one `done` flag take a
record's end for the world's, which biases what they learn of the last steps; those that know
truncation do not.
"""

from jaxcoinfer.adapters.for_gymnasium import gymnasium_env, gymnasium_vector
from jaxcoinfer.adapters.for_gymnax import Gymnax, GymnaxFive
from jaxcoinfer.adapters.for_jaxmarl import jaxmarl_env

__all__ = ["Gymnax", "GymnaxFive", "gymnasium_env", "gymnasium_vector", "jaxmarl_env"]
