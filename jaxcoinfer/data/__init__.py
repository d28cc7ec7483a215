"""What files say: profiles, traces, processes of scenarios. No JAX."""
