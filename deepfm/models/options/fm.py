"""Options of the models of factorization machines."""

from dataclasses import dataclass, field

from deepfm.models.options.sections import (
    AttentionConfig,
    CINConfig,
    FMConfig,
    ModelConfig,
    NetworkConfig,
)


@dataclass(frozen=True, kw_only=True)
class FactorizationMachineConfig(ModelConfig):
    """Options of FM: those of the embedding layer."""

    name = "fm"


@dataclass(frozen=True, kw_only=True)
class DeepFMConfig(NetworkConfig):
    """Options of DeepFM.

    Attributes:
        fm: The linear and the factorization-machine term.
    """

    name = "deepfm"
    fm: FMConfig = field(default_factory=FMConfig)


@dataclass(frozen=True, kw_only=True)
class XDeepFMConfig(NetworkConfig):
    """Options of xDeepFM.

    Attributes:
        fm: The linear term.
        cin: The compressed interaction network.
    """

    name = "xdeepfm"
    fm: FMConfig = field(default_factory=FMConfig)
    cin: CINConfig = field(default_factory=CINConfig)


@dataclass(frozen=True, kw_only=True)
class AttentionDeepFMConfig(NetworkConfig):
    """Options of AttentionDeepFM.

    Attributes:
        fm: The linear and the factorization-machine term.
        attention: Self-attention over fields.
    """

    name = "attention_deepfm"
    fm: FMConfig = field(default_factory=FMConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)


@dataclass(frozen=True, kw_only=True)
class WideAndDeepConfig(NetworkConfig):
    """Options of Wide & Deep: those that every model with a deep branch has."""

    name = "wide_and_deep"
