"""Models without a run: folders as `transformers` writes them, read without that library."""

from sympformer.pretrained.folder import ModelFolder, is_model_folder

__all__ = ["ModelFolder", "is_model_folder"]
