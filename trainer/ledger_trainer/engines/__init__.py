"""The engines that come with the trainer: one process, and several that share out samples, parameters and layers.

An engine is built from the recipe's plain configuration, in which ``task`` is the task itself, ``optimizer``
makes the optimizer of a model and ``learning_rate`` tells the rate of a step. It reads the tables that concern it.

=================  ==================================================================
``engine``         one process: step, evaluation, and the promises about its state
``parallel``       several processes: what is done to the model, in order
``tensor``         layers split over processes
``pipeline``       layers dealt out to stages, and micro-batches sent through them
``replicas``       parameters replicated, split, or both
``state``          model and optimizer as named parts of tensors
``staging``        copies that training leaves alone
``files``          what is written and read, as safetensors
=================  ==================================================================
"""

from ledger_trainer.engines.engine import TorchEngine

__all__ = ["TorchEngine"]
