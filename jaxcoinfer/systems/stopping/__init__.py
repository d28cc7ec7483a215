"""The system `stopping`: before each layer, keep computing or stop and upload."""
