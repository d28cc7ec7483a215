"""The system `multi-user`: users that interfere on sub-channels."""
