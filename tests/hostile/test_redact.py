"""Secrets are taken out of what is shown and stored, and paths with secrets are not taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfspark.app.config import load_config
from mfspark.errors import ConfigError
from mfspark.redact import holds_secret, redacted

SECRET = "xK3+/9w"


@pytest.mark.parametrize(
    "text",
    [
        f"s3a://AKIA:{SECRET}@bucket/ratings.csv",
        f"cannot read hdfs://me:{SECRET}@host:8020/x, nor y",
        f"https://{SECRET[:3]}{SECRET[5:]}@example.org/x",
        f"abfss://c@a.dfs.core.windows.net/x?sv=2024&sig={SECRET}&se=2",
        f"jdbc:postgresql://h/db?user=me&password={SECRET}",
    ],
)
def test_secrets_of_uris_are_hidden(text):
    assert holds_secret(text)
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        f"spark.hadoop.fs.s3a.secret.key={SECRET}",
        f"fs.azure.account.key.a.dfs.core.windows.net: {SECRET}",
        f'{{"spark.ssl.keyPassword": "{SECRET}"}}',
    ],
)
def test_values_of_secret_properties_are_hidden(text):
    assert SECRET not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "hdfs://host:8020/data@home/x",
        "abfs://container@account.dfs.core.windows.net/ratings",
        "s3://bucket/design=1/my@file.csv",
        "file:///tmp/a:b@c",
        "08:30:46 step 1 of 5: ingest",
        "ALS 1/12: objective 4597.2, train rmse 1.276; 0.393 s, at most 4.3 s left",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text
    assert not holds_secret(text)


@given(st.text(st.characters(codec="ascii", exclude_characters="\"' @"), min_size=4))
def test_no_password_gets_through(password):
    # Digits up to a slash are a port, and what comes behind a name.
    if not password.partition("/")[0].isdigit() and not password.isspace():
        shown = redacted(f"s3a://name:{password.replace(chr(9), '')}@bucket/x")
        assert shown.endswith("@bucket/x")


def test_a_path_with_a_secret_is_refused_before_anything_begins(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'[data]\npath = "s3a://AKIA:{SECRET}@bucket/ratings.csv"\n')
    with pytest.raises(ConfigError, match=r"data.path = 's3a://AKIA:\*\*\*@bucket") as caught:
        load_config(str(config), [])
    assert SECRET not in str(caught.value)
    config.write_text("")
    with pytest.raises(ConfigError, match=r"data.items_path .* holds a secret"):
        load_config(str(config), ["data.path=x.csv", f"data.items_path=s3://b/x?token={SECRET}"])
