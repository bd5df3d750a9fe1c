"""The names of the parts that a configuration can use, and how a reader's own attention gets a name."""

import hashlib
import inspect
from collections.abc import Callable

from torch import nn

from .attention import Attention, ReAttention, RefinedAttention
from .blocks import Mlp
from .controls import QueryMeanAttention, SharingAttention, SharpenedAttention, TiedAttention
from .ideas import GhostAttention, GhostMlp, SqueezeExciteAttention
from .refiner import AccumulatedAttention, ReusedAttention, SharedAttention
from .sparse import MaskedAttention, NoAttention, WatchedAttention
from .tokens import ConvStem, PatchEmbed, PerformerLayer, TokensToToken, TransformerLayer


def _tokens_to_token(layer: type[nn.Module]) -> Callable[..., nn.Module]:
    def build(img_size: int, patch_size: int, in_chans: int, embed_dim: int, **options: object) -> nn.Module:
        return TokensToToken(img_size, in_chans, embed_dim, layer, **options)

    return build


TOKENS: dict[str, Callable[..., nn.Module]] = {
    "patch": PatchEmbed,
    "stem": ConvStem,
    "t2t-performer": _tokens_to_token(PerformerLayer),
    "t2t-transformer": _tokens_to_token(TransformerLayer),
}
ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "plain": Attention,
    "re": ReAttention,
    "refined": RefinedAttention,
    "accumulated": AccumulatedAttention,
    "reused": ReusedAttention,
    "squeeze-excite": SqueezeExciteAttention,
    "ghost": GhostAttention,
    "sharpened": SharpenedAttention,
    "handing": SharingAttention,
    "handed": SharedAttention,
    "query-mean": QueryMeanAttention,
    "tied": TiedAttention,
    "masked": MaskedAttention,
    "watched": WatchedAttention,
    "none": NoAttention,
}
ATTENTION_SOURCES: dict[str, str] = {}
"""The source code of the attentions that `register_attention` named."""
MLPS: dict[str, Callable[..., nn.Module]] = {"plain": Mlp, "ghost": GhostMlp}


def register_attention(kind: type[nn.Module]) -> str:
    """Gives an attention class a name for configurations: its own name and a hash of its source code.

    It is called with (channels, heads) and, as far as its `__init__` takes them, `qkv_bias`, `attn_drop`, `proj_drop`
    and the configuration's `attention_options`; its instances turn tokens (B, N, C) into tokens (B, N, C).

    Raises:
        ValueError: when it is not a module class.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{kind!r} is not a module class; give the class itself, not an instance")
    source = _source_of(kind)
    name = f"{kind.__name__}#{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    ATTENTIONS[name], ATTENTION_SOURCES[name] = kind, source
    return name


def _source_of(kind: type) -> str:
    """The source code of a class and of its base classes, except for PyTorch's and this package's."""
    known = ("builtins", "torch", __name__.partition(".")[0])
    try:
        return "\n\n".join(
            inspect.getsource(base) for base in kind.__mro__ if base.__module__.partition(".")[0] not in known
        )
    except (OSError, TypeError):  # defined in an interpreter that keeps no source
        return f"# the source of {kind.__module__}.{kind.__qualname__} (at {id(kind):#x}) is not known"


def new_attention(name: str, dim: int, num_heads: int, usual: dict, options: dict) -> nn.Module:
    """Builds the attention with that name.

    Args:
        name: a key of ATTENTIONS.
        dim, num_heads: channels C and heads H.
        usual: `qkv_bias`, `attn_drop` and `proj_drop`; options that an attention does not have are left out.
        options: further options, which it must have.

    Raises:
        ValueError: for options that its class does not take, naming them. Errors in its own code are raised unchanged.
    """
    kind = ATTENTIONS[name]
    taken = keywords_of(kind)
    given = {key: value for key, value in usual.items() if key in taken or value != _DEFAULTS[key]} | options
    if unknown := [f"'{key}'" for key in given if key not in taken]:
        known = ", ".join(sorted(taken)) or "none"
        raise ValueError(f"attention '{name}' does not take the options {', '.join(unknown)}; its options are: {known}")
    try:
        inspect.signature(kind).bind(dim, num_heads, **given)
    except TypeError as error:
        raise ValueError(f"attention '{name}' is called with (channels, heads), which does not fit: {error}") from error
    return kind(dim, num_heads, **given)


_DEFAULTS = {"qkv_bias": True, "attn_drop": 0.0, "proj_drop": 0.0}


def keywords_of(kind: Callable) -> set[str]:
    """The options that a class takes beside channels and heads; its `**options` are those of its parent class."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        names |= {*positional[2:], *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
