"""What a wrong setting says: where it stands, and what it may be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import model_validator

from clickherd.config import resolve
from clickherd.data.config import DataConfig
from clickherd.errors import ConfigError
from clickherd.settings import Settings, validated


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"numeric": "log2"}}, "data.numeric = 'log2': input should be 'auto', 'log_square', 'quantile'"),
        ({"data": {"numeric_columns": {"age": "log2"}}}, "data.numeric_columns.age = 'log2': input should be"),
        (
            {"dta": {}},
            "unknown setting 'dta'. Did you mean 'data'? Valid names: compression, data, model, optim, source, train",
        ),
        ({"optim": {"lr": 1}}, "unknown setting 'optim.lr'. Did you mean 'learning_rate'?"),
        ({"model": {"name": "dcn", "mlp": {"hiden": 1}}}, "unknown setting 'model.mlp.hiden'. Did you mean 'hidden"),
        ({"model": {"name": "dcn", "embedding_dim": 0}}, "model.embedding_dim = 0: input should be greater than"),
        ({"model": {"name": "dcnn"}}, "unknown model 'dcnn'. Did you mean 'dcn'?"),
        ({"model": 3}, "model = 3"),
        ({"optim": {"betas": ["a", 1]}}, "optim.betas.0 = 'a'"),
    ],
)
def test_a_fault_names_its_place_and_the_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(settings)
    assert str(caught.value).startswith(message)


def test_a_group_alone_explains_itself_as_the_whole_does() -> None:
    wrong = {"format": "xls"}
    with pytest.raises(ConfigError) as alone:
        validated(DataConfig, wrong, within="data")
    with pytest.raises(ConfigError) as whole:
        resolve({"data": wrong})
    assert str(alone.value) == str(whole.value)
    assert str(alone.value).startswith("data.format = 'xls': input should be 'auto', 'csv'")


class _Sizes(Settings):
    channels: tuple[int, ...] = (8,)
    patch: int = 1

    @model_validator(mode="after")
    def _fit(self) -> _Sizes:
        if self.channels[0] % self.patch:
            raise ValueError(f"patch = {self.patch} does not divide {self.channels[0]}")
        return self


class _Model(Settings):
    sizes: _Sizes = _Sizes()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (_Sizes, {"patch": 3}, "patch = 3 does not divide 8."),
        (_Model, {"sizes": {"patch": 3}}, "sizes: patch = 3 does not divide 8."),
        (_Sizes, {"channels": 64}, "channels = 64: a list is needed. Write channels=[64]."),
        (DataConfig, {"null_values": "NA"}, "null_values = 'NA': a list is needed. Write null_values=[NA]."),
    ],
)
def test_settings_that_do_not_go_together_are_told_without_all_the_others(
    kind: type[Settings], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(kind, settings)
    assert str(caught.value) == message
