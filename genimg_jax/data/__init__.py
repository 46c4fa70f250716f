"""Images with labels and fields: open a source, iterate over its batches, prepare them inside the compiled step.

source = data.open_source(data.Options(source="tfds", name="mnist"), data.Part.TRAIN)
for batch in loading.train_batches(source, seed=0, start_step=0, batch_size=128): ...
"""

from genimg_jax.data.source import open_source
from genimg_jax.data.splits import Part
from genimg_jax.data.types import Options, Source, without_fields

__all__ = ["Options", "Part", "Source", "open_source", "without_fields"]
