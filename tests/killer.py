"""A callback that ends its own process without warning, for tests of resuming."""

import os
import signal
from typing import Any

import lightning as L  # noqa: N812


class Killer(L.Callback):
    """Sends SIGKILL to itself when a hook runs at a step, unless the run has been resumed."""

    def __init__(self, hook: str, step: int) -> None:
        def kill(trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step >= step and not trainer.ckpt_path:  # pyright: ignore[reportAttributeAccessIssue]
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, hook, kill)
