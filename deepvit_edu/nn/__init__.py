"""The models' parts: attention, tokens and the transformer that is put together from them."""
