"""clickherd: click logs in, a calibrated click-through-rate model out, trained at huge batches with CowClip."""

__version__ = "0.1.0"
