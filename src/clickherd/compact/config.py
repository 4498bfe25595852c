"""What a smaller model consists of; `clickherd compress` finds it, and a recipe can state it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clickherd.compact.unified import UnifiedConfig
from clickherd.data.store import Layout
from clickherd.errors import ConfigError, did_you_mean
from clickherd.settings import Settings

Bits = Literal[4, 8, 16, 32]
FULL: Bits = 32


class CompressionConfig(Settings):
    """How the embedding rows of each field are held, and which dense layers are products of two. Nothing: as usual."""

    dims: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {},
        description="field → numbers that a row of it holds; a matrix of the field's own makes an embedding of them. "
        "Others hold the whole embedding",
    )
    bits: dict[str, Bits] = Field(
        {}, description="field → bits of each of these numbers in the finished model: 4, 8, 16 or 32, which others have"
    )
    trained_bits: Literal[8] | None = Field(
        None,
        description="8: all rows are held in 8 bits while they are trained, too, with a scale for each row and rounded "
        "at random; the finished model holds them as with `bits`",
    )
    dense_bits: Literal[16, 32] = Field(
        32, description="of the matrices of the dense network on disk: 16 halve them; predictions compute in 32"
    )
    unified: UnifiedConfig | None = Field(
        None, description="one table for all fields, whose rows they share; instead of `dims` and `bits`"
    )
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="dense layer → its rank: the layer becomes a product of two, with so many numbers in between"
    )

    def __bool__(self) -> bool:
        return bool(self.packs or self.ranks or self.unified)

    @property
    def packs(self) -> bool:
        """Whether the finished model holds its weights in another way than training does."""
        return bool(self.dims or self.bits or self.trained_bits or self.dense_bits == 16)

    def bits_of(self, name: str) -> Bits:
        """Of a field's numbers in the finished model."""
        return self.bits.get(name, self.trained_bits or FULL)

    def check_fields(self, layout: Layout, width: int) -> None:
        """See that the fields that are named are there and hold no more than an embedding, `width` numbers.

        Raises:
            ConfigError: one is not, or does; or settings do not go together.
        """
        if self.trained_bits is not None and (self.dims or self.bits or self.dense_bits == 16):
            raise ConfigError(
                "compression.trained_bits is for whole rows, all in as many bits",
                mend="Leave compression.dims, bits and dense_bits out, or compression.trained_bits.",
            )
        if self.unified is not None:
            if self.packs:
                raise ConfigError(
                    "compression.unified shares rows among fields: none can have dims or bits of its own, nor "
                    "the dense network fewer bits",
                    mend="Leave compression.dims, bits and dense_bits out, or compression.unified.",
                )
            if width % self.unified.lookups:
                raise ConfigError(
                    f"compression.unified.lookups = {self.unified.lookups}: an embedding has {width} numbers",
                    mend="Choose a divisor of it, or another model.embedding_dim.",
                )
        own = [field.name for field in layout.fields if field.target is None]
        for setting, names in (("dims", self.dims), ("bits", self.bits)):
            for name in names:
                if name not in own:
                    raise ConfigError(
                        f"compression.{setting} names {name!r}, which is no embedded field",
                        mend=did_you_mean(name, own),
                    )
        for name, dim in self.dims.items():
            if dim >= width:
                raise ConfigError(
                    f"compression.dims.{name} = {dim}: an embedding has {width} numbers",
                    mend="Name fewer, or leave the field out.",
                )
