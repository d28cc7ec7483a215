"""The system `on-demand`: exit, cut and bits of each task."""
