"""The config: what it accepts, how it says no, and what it resolves to."""

from __future__ import annotations

import copy
import datetime as dt
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clvmodels import config as conf
from clvmodels.artifacts import DAYS_PER_UNIT, DAYS_PER_YEAR
from clvmodels.errors import InputError

ROOT = Path(__file__).parents[1]
MINIMAL = {"data": {"source": "cdnow_sample"}, "value": {"margin": 0.3, "annual_discount_rate": 0.15}}


def changed(key: str, value: object) -> dict:
    """The minimal config with one key changed."""
    document = copy.deepcopy(MINIMAL)
    *path, last = key.split(".")
    inner = document
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return document


def sentence(source, overrides=()) -> str:
    """The one sentence with which a config is refused."""
    with pytest.raises(InputError) as caught:
        conf.load(source, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


REFUSED = [
    ("value.discount_rate", 0.1, "discount_rate is not a key of value; did you mean annual_discount_rate?"),
    ("margin", 0.3, "margin is not a key of the config; did you mean value.margin?"),
    ("currency", "USD", "did you mean data.currency?"),
    ("zzz", 1, "zzz is not a key of the config; it has name, data, models,"),
    ("value.margin", {"bye": "x"}, "bye is not a key of value.margin; did you mean by?"),
    ("value.horizon", 12, 'value.horizon is 12; a duration needs its unit: write "12 months"'),
    ("value.horizon", "12", 'write "12 months"'),
    ("value.horizon", "12 moons", "value.horizon is '12 moons'; a duration is a number above 0 and a unit"),
    ("value.horizon", "0 months", "number above 0"),
    ("value.horizons", ["3 months", 12], "value.horizons[1] is 12; a duration needs its unit"),
    ("value.horizons", ["infinite"], "value.horizons[0] is 'infinite'"),
    ("value.annual_discount_rate", -0.1, "value.annual_discount_rate is -0.1; a yearly discount rate is"),
    ("value.annual_discount_rate", 15, "15 % is 0.15"),
    ("value.annual_discount_rate", "high", "it should be a valid number."),
    ("value.annual_discount_rate", float("nan"), "finite"),
    ("value.margin", 30, "value.margin is 30; a margin is a ratio of revenue and at most 1: 30 % is 0.3."),
    ("value.margin", 1.001, "at most 1"),
    ("value.margin", "30%", "30 % is 0.3"),
    ("value.margin", True, "value.margin is True"),
    ("value.margin", None, "value.margin is missing: contribution margin as a ratio of revenue"),
    (
        "value.margin",
        {"by": "country", "values": {"FR": 0.3}},
        "value.margin.by is 'country', which data.segm",
    ),
    ("value.margin", {"by": "country", "values": {"FR": 3}}, "value.margin.values.FR is 3; a margin"),
    ("value", None, "value is missing; it needs margin and annual_discount_rate."),
    ("value", 3, "value is 3; it holds keys with values."),
    ("value.units_per_year", 12, "value.units_per_year is 12, but a year has 52.18 of data.time_unit week"),
    (
        "data.time_unit",
        "wek",
        "data.time_unit is 'wek', not one of day, week, month, year; did you mean week?",
    ),
    ("data.observation_end", 19970930, "a day is written 1997-09-30, without a time"),
    ("data.observation_end", "30/09/1997", "data.observation_end is '30/09/1997'; a day is written"),
    ("data.observation_end", dt.datetime(1997, 9, 30, 12), "without a time"),
    ("data.currency", 3, "data.currency is 3; it is text; put it in quotes"),
    ("fit.draws", 3, "fit.draws is 3; it should be greater than or equal to 100"),
    ("fit.draws", "many", "fit.draws is 'many'; it should be a valid integer."),
    ("seed", -1, "seed is -1"),
    ("name", "../else", "name is '../else'; it names the folder of the run"),
    ("models.purchases", "bg_nbd", "models.purchases is 'bg_nbd'; it holds keys with values"),
    ("models.purchases", {"priors": "flat"}, "models.purchases.family is missing"),
    (
        "models.purchases",
        {"family": "bg_nbd", "priors": "weak"},
        "models.purchases.priors is 'weak', not one",
    ),
    (
        "models.purchases",
        {"family": "bg_ndb"},
        "models.purchases.family: unknown family 'bg_ndb'; did you mean",
    ),
    (
        "models.purchases",
        {"family": "gamma_gamma"},
        "models.purchases.family: 'gamma_gamma' is a spend family",
    ),
    ("models.spend", {"family": "bg_nbd"}, "models.spend.family: 'bg_nbd' is a purchases family"),
    ("extends", 3, "extends is 3"),
]


@pytest.mark.parametrize(("key", "value", "expected"), REFUSED)
def test_refusal_names_the_key_and_the_remedy(key, value, expected):
    assert expected in sentence(changed(key, value))


def test_unknown_key_is_reported_before_what_it_left_missing():
    document = changed("value.annual_discount_rat", 0.15)
    del document["value"]["annual_discount_rate"]
    assert "did you mean annual_discount_rate?" in sentence(document)


@pytest.mark.parametrize(
    ("key", "value", "resolved"),
    [
        ("value.margin", -0.1, -0.1),
        ("value.margin", 1, 1.0),
        ("value.margin", {"column": "m"}, conf.MarginByColumn(column="m")),
        ("value.horizon", "18  Months", "18 months"),
        ("value.horizon", float("inf"), "infinite"),
        ("value.horizons", "1 year", ("1 year",)),
        ("value.annual_discount_rate", 0, 0.0),
        ("value.units_per_year", 52, 52.0),
        ("data.segments", "Country", ("Country",)),
        ("data.observation_end", dt.date(1997, 9, 30), "1997-09-30"),
    ],
)
def test_accepted_forms(key, value, resolved):
    config = conf.load(changed(key, value))
    for part in key.split("."):
        config = getattr(config, part)
    assert config == resolved


def test_an_opportunity_is_not_divided():
    yearly = changed("data", {**MINIMAL["data"], "clock": "discrete", "time_unit": "year"})
    assert list(conf.horizons(conf.load(yearly))) == ["12 months"]
    yearly["value"] = {**yearly["value"], "horizons": ["3 months", "2 years"]}
    assert "value.horizons has '3 months', but data.clock is discrete" in sentence(yearly)


def test_config_does_not_change():
    config = conf.load(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.value.margin = 0.5


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


MINIMAL_TEXT = yaml.safe_dump(MINIMAL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "c.yaml is empty"),
        ("# only a comment\n", "c.yaml is empty"),
        ("- a\n- b\n", "c.yaml holds a list"),
        ("data: [1\nvalue: 2\n", "c.yaml is not valid YAML in line 2"),
        ("seed: 1\nvalue:\n  margin: .3\n  margin: .4\n", "in line 4: the key 'margin' appears twice"),
        ("x: !!python/object/apply:os.system [echo]\n", "c.yaml is not valid YAML in line 1"),
        (b"seed: 1\nname: caf\xe9\n", "c.yaml is not UTF-8 text (byte 0xe9 in line 2); save it as UTF-8."),
        ("a: \x00\n", "c.yaml is not valid YAML"),
    ],
)
def test_refused_files(tmp_path, text, expected):
    assert expected in sentence(write(tmp_path / "c.yaml", text))


def test_absent_file_and_folder(tmp_path):
    write(tmp_path / "config.yaml", MINIMAL_TEXT)
    assert f"did you mean {tmp_path / 'config.yaml'}?" in sentence(tmp_path / "confg.yaml")
    assert "cannot be read" in sentence(tmp_path)


def test_file_gives_name_and_base(tmp_path):
    config = conf.load(write(tmp_path / "shop.yaml", b"\xef\xbb\xbf" + MINIMAL_TEXT.encode()))
    assert (config.name, config.base) == ("shop", tmp_path)


def test_numbers_in_scientific_notation(tmp_path):
    text = "models: {purchases: {family: bg_nbd, priors: {r: {dist: HalfNormal, sigma: 1e-3}}}}\n"
    config = conf.load(write(tmp_path / "c.yaml", text + MINIMAL_TEXT))
    assert config.models.purchases.priors["r"]["sigma"] == 1e-3


def test_extends_merges_and_null_resets(tmp_path):
    (tmp_path / "sub").mkdir()
    write(
        tmp_path / "base.yaml",
        "name: base\nseed: 7\nfit: {draws: 500, tune: 200}\n"
        "data: {source: logs/*.csv, columns: {customer: c, date: d, amount: a}}\n"
        "value: {margin: 0.3, annual_discount_rate: 0.15}\n",
    )
    child = write(tmp_path / "sub" / "child.yaml", "extends: ../base.yaml\nseed: null\nfit: {draws: 600}\n")
    config = conf.load(child)
    assert config.name == "child"
    assert (config.fit.draws, config.fit.tune) == (600, 200)
    assert config.seed == conf.Config.model_fields["seed"].default
    assert (config.base / config.data.source).resolve() == (tmp_path / "logs/*.csv").resolve()


def test_extends_in_a_circle(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    assert "extends a.yaml, which leads back to itself" in sentence(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("value.margin", "--set value.margin: write key=value"),
        ("=3", "write key=value"),
        ("value..margin=3", "write key=value"),
        ("value.margin=3", "--set value.margin=3: value.margin is 3; a margin"),
        ("value.margn=0.3", "--set value.margn=0.3: margn is not a key of value; did you mean margin?"),
        ("data.source.x=1", "--set data.source.x=1: source holds a value, not keys."),
        ("value.margin=[1", "--set value.margin=[1 is not valid YAML"),
        ("value.margin=", "--set value.margin=: value.margin is missing"),
        ("models.purchases.family=bg", "models.purchases.family: unknown family 'bg'"),
    ],
)
def test_refused_overrides(override, expected):
    assert expected in sentence(MINIMAL, [override])


def test_overrides_are_yaml_and_leave_the_source_alone():
    before = copy.deepcopy(MINIMAL)
    config = conf.load(MINIMAL, ["value.margin=0.2", "data.segments=[a, b]", "fit.allow_unconverged=true"])
    assert config.value.margin == 0.2
    assert config.data.segments == ("a", "b")
    assert config.fit.allow_unconverged is True
    assert before == MINIMAL


def test_loading_a_config_again_changes_nothing(tmp_path):
    config = conf.load(write(tmp_path / "c.yaml", MINIMAL_TEXT))
    again = conf.load(config, ["seed=3"])
    assert again.base == config.base
    assert again.model_dump(exclude={"seed"}) == config.model_dump(exclude={"seed"})
    assert again.seed == 3


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_configs_of_the_repository_load_and_survive_a_dump(path, tmp_path):
    config = conf.load(path)
    assert conf.load(write(tmp_path / "config.yaml", conf.dump(config))).model_dump() == config.model_dump()


def test_dump_keeps_a_relative_source_loadable(tmp_path):
    document = changed(
        "data", {"source": "logs/a.csv", "columns": {"customer": "c", "date": "d", "amount": "a"}}
    )
    config = conf.load(write(tmp_path / "c.yaml", yaml.safe_dump(document)))
    folder = tmp_path / "runs" / "c"
    folder.mkdir(parents=True)
    stored = conf.load(write(folder / "config.yaml", conf.dump(config, folder)))
    assert (stored.base / stored.data.source).resolve() == tmp_path / "logs/a.csv"


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("12 months", "week", DAYS_PER_YEAR / 7),
        ("1 year", "day", DAYS_PER_YEAR),
        ("3 years", "month", 36),
        ("90 days", "week", 90 / 7),
        ("2 weeks", "day", 14),
        ("infinite", "week", float("inf")),
    ],
)
def test_durations(text, unit, expected):
    year = DAYS_PER_YEAR / DAYS_PER_UNIT[unit]
    assert conf.duration(text, unit, year) == pytest.approx(expected, rel=4e-16)


def test_months_follow_the_year_of_the_run():
    config = conf.load(changed("value.units_per_year", 52))
    assert conf.units_per_year(config) == 52
    assert conf.duration("12 months", "week", 52) == 52
    assert conf.units_per_year(conf.load(MINIMAL)) == DAYS_PER_YEAR / 7


@given(number=st.integers(1, 10_000), unit=st.sampled_from(sorted(DAYS_PER_UNIT)))
def test_a_duration_is_as_long_in_every_time_unit(number, unit):
    days = {
        own: conf.duration(f"{number} {unit}s", own, DAYS_PER_YEAR / DAYS_PER_UNIT[own]) * DAYS_PER_UNIT[own]
        for own in DAYS_PER_UNIT
    }
    # Four roundings of a double lie between any two of them.
    assert days == pytest.approx(dict.fromkeys(DAYS_PER_UNIT, number * DAYS_PER_UNIT[unit]), rel=9e-16)


def written(info) -> str:
    """A default as YAML on one line; empty where nothing is set."""
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    default = {tuple: list, type(Path()): str}.get(type(default), lambda same: same)(default)
    return (
        yaml.safe_dump(default, default_flow_style=True).split("\n")[0]
        if default not in (None, [], {})
        else ""
    )


def reference() -> str:
    """The table of docs/config.md: every key, what it is when left out, and what it means."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    models = conf.ModelsConfig()
    families = {f"models.{role}.family": getattr(models, role).family for role in ("purchases", "spend")}
    for name, info in conf.schema():
        if isinstance(info.annotation, type) and issubclass(info.annotation, conf.Section):
            continue
        text = " ".join((info.description or "").replace("``", "`").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {families.get(name) or written(info)} | {text} |")
    return "\n".join(lines)


def test_docs_list_every_key():
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert reference() in text, f"the table of docs/config.md should be:\n{reference()}"


def test_configs_in_the_readme_load():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        conf.load(yaml.safe_load(block))
