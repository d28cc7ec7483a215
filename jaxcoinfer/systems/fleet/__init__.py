"""The system `fleet`: version, cut and shares of many devices at once."""
