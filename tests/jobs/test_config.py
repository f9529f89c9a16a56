"""Configuration: defaults from one place, overrides, and errors that name key and remedy."""

from pathlib import Path

import pytest

from mfspark.app.config import Config, load_config
from mfspark.app.config_reference import reference
from mfspark.errors import ConfigError
from mfspark.settings import ALSSettings, SGDSettings

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> str:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return str(path)

    return _write


def test_defaults_are_those_of_the_settings(write):
    config = load_config(write('[data]\ndataset = "synthetic"\n'), [])
    assert config.als == ALSSettings()
    assert config.split.test == 0.1


def test_overrides_are_toml_values_or_text(write):
    path = write('[data]\ndataset = "synthetic"\n')
    config = load_config(
        path,
        ["als.rank=7", "als.fit_biases=false", "run.name=a b", "data.rating_scale=[1, 5]",
         "data.columns.user=who"],
    )  # fmt: skip
    assert (config.als.rank, config.als.fit_biases, config.run.name) == (7, False, "a b")
    assert config.data.rating_scale == (1, 5)
    assert config.data.columns.user == "who"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[als]\nrnk = 3\n[data]\npath='x'", [], r"unknown key 'als.rnk'; did you mean 'rank'\?"),
        ("[data]\npath='x'", ["model.rank=3"], r"unknown key 'model'; known are run, data"),
        (
            "[data]\npath='x'\n[data.columns]\nusr='a'",
            [],
            r"'data.columns.usr'; did you mean 'user'",
        ),
        (
            "[data]\npath='x'",
            ["als.rank=-1"],
            r"als.rank = -1 is not allowed: input should be greater",
        ),
        ("[data]\npath='x'", ["als.rank"], r"not of the form section.key=value"),
        ("[run]\nname='x'", [], r"'data' is not set"),
        ("[data]\nformat='csv'", [], r"data is not allowed: set path, table or dataset"),
        ("[data", [], r"not valid TOML"),
    ],
)
def test_errors(write, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text), overrides)


def test_sgd_takes_its_model_from_als(write):
    text = (
        "[als]\nrank = 5\nreg_param = 0.7\nmax_iter = 3\n[sgd]\nreg_param = 0.9\n[data]\npath='x'"
    )
    sgd = load_config(write(text), ["als.bias_reg_param=0.6"]).sgd
    assert (sgd.rank, sgd.reg_param, sgd.bias_reg_param) == (5, 0.9, 0.6)
    assert sgd.max_iter == SGDSettings().max_iter


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*none.toml"):
        load_config(str(tmp_path / "none.toml"), [])


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    assert load_config(str(path), []).data


def test_every_setting_is_described():
    """The reference of the configuration is made from these descriptions."""

    def undescribed(model, prefix=""):
        for name, field in model.model_fields.items():
            nested = getattr(field.annotation, "model_fields", None)
            if nested:
                yield from undescribed(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert list(undescribed(Config)) == []


def test_the_reference_is_up_to_date():
    """docs/configuration.md; `python -m mfspark.app.config_reference` prints it anew."""
    page = (CONF.parent / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == reference()
    assert "| `reg_exponent` | `0.5` | ν: a row with n ratings" in page
    assert "| `columns.timestamp` | not set |" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('als = 3\n[data]\npath = "x"\n', "als = 3 is not allowed"),
        ('data = "x"\n', "data = 'x' is not allowed"),
        ('[data]\npath = "x"\n[als]\nreg_param = inf\n', "als.reg_param = inf is not allowed"),
        ("a = " + 3000 * "[" + 3000 * "]" + "\n", "is not valid TOML"),
    ],
)
def test_odd_files_are_said_in_a_line(tmp_path, content, message):
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(str(tmp_path / "run.toml"), [])
    assert "\n" not in str(raised.value)
