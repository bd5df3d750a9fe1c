"""The models' parts: attention, tokens and the transformer that is put together from them."""

from . import fast as fast  # fills the table of fast paths
