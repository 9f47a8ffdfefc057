"""PyTorch checkpoints in and out."""

from anchordetr_jax.weights.state_dict import model_from_state_dict, state_dict_from_model

__all__ = ["model_from_state_dict", "state_dict_from_model"]
