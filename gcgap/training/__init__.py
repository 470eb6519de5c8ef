"""The LightningModule, its data module, callbacks, run directory, checkpoints and resuming."""
