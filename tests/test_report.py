"""The report layer: one table, and a page, CSV files and figures that say the same."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from clvmodels import equity, value
from clvmodels.artifacts import (
    Assumptions,
    Calendar,
    Check,
    FamilyPosterior,
    Posterior,
    Segment,
    Summary,
)
from clvmodels.config import Config
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.report import figures, files, histories, page, tables, text
from clvmodels.validate import predictive_checks

HOSTILE = "<script>alert('x')</script>"
PURCHASES = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
END = dt.date(1997, 9, 30)
YEAR = 365.2425 / 7
DOCS = Path(__file__).parents[1] / "docs" / "summary.md"


def make_summary(customers: int = 250, seed: int = 1) -> Summary:
    """Customers simulated from the models, with names that no page may trust."""
    rng = np.random.default_rng(seed)
    age = rng.integers(190, 273, customers) / 7
    found = registry.purchases("bg_nbd").simulate(PURCHASES, age + 39, rng)
    seen = found.statistics(age)
    x = seen["frequency"]
    later = (found.time > age[found.customer]).astype(float)
    after = np.bincount(found.customer, later, customers)
    spend = registry.spend("gamma_gamma").simulate(SPEND, np.maximum(x, 1), rng).monetary_value
    end = np.datetime64(END)
    first_day = end - np.round(7 * age).astype("timedelta64[D]")
    day = np.arange(first_day.min(), end + 274)
    ordered = first_day[found.customer] + np.ceil(7 * found.time).astype("timedelta64[D]")
    orders = np.bincount((ordered - day[0]).astype(int), minlength=len(day))[: len(day)].astype(float)
    names = np.array([f"c{i:04d}" for i in range(customers)], dtype=object)
    names[0] = HOSTILE
    return Summary(
        customer=names,
        columns={
            **seen,
            "monetary_value": np.where(x > 0, spend, np.nan),
            "first_amount": spend,
            "holdout_frequency": after,
            "holdout_amount": after * 35.0,
        },
        first_day=first_day,
        segments={
            "channel": Segment(codes=np.arange(customers) % 3, labels=(HOSTILE, "a & b", "$x_1$ {currency}"))
        },
        calendar=Calendar(
            day=day,
            first_orders=np.zeros(len(day)),
            repeat_orders=orders,
            first_amount=np.zeros(len(day)),
            repeat_amount=35 * orders,
        ),
        time_unit="week",
        observation_start=dt.date(1997, 1, 1),
        observation_end=END,
        holdout=39.0,
        currency="USD",
        ledger={"source": "/somewhere/log.csv", "rows_read": 1234, "spend_read": 5678.9, "notes": [HOSTILE]},
        fingerprint="0123456789abcdef",
    )


def make_posterior(draws: int = 200, seed: int = 2) -> Posterior:
    """Draws spread around published estimates; one draw: the estimates themselves."""
    rng = np.random.default_rng(seed)
    parts = []
    for name, centre in (("bg_nbd", PURCHASES), ("gamma_gamma", SPEND)):
        centers = np.array(list(centre.values()))
        noise = rng.normal(0, 0.05 if draws > 1 else 0.0, (1, draws, len(centers)))
        sizes = dict.fromkeys(centre, 1500.0 if draws > 1 else None)
        parts.append(
            FamilyPosterior(
                family=name,
                parameters=tuple(centre),
                draws=centers * np.exp(noise),
                sampler="importance" if draws > 1 else "map",
                maximum={**centre, "log_likelihood": -9582.43},
                diagnostics={
                    "ess_bulk": sizes,
                    "ess_tail": sizes,
                    "r_hat": dict.fromkeys(centre),
                    **({"k_hat": -0.2, "ess": 1787.3} if draws > 1 else {}),
                },
                priors={"r": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.5}},
                rows=100,
                customers=250,
            )
        )
    return Posterior(purchases=parts[0], spend=parts[1], time_unit="week", currency="USD")


MEASURED = {"unit": "share", "level": "predictive", "coverage": 0.64, "band": [0.71, 1.0], "within": False}
MEASURED |= {"bias": 0.014, "rms_z": 2.0}
WIDE = tables.statistics(np.linspace(0.1, 0.2, 50), unit="share", level="calibrated")
BACKTEST = {
    "horizon": "4 weeks",
    "held": None,
    "share": tables.statistics(np.linspace(0.02, 0.04, 50), unit="share", level="expected"),
    "origins": {"value": 14, "unit": "origins"},
    "first": "1997-05-20",
    "last": "1998-05-19",
    "horizons": [
        {
            "label": "4 weeks",
            "steps": 28,
            "origins": {"value": 14, "unit": "origins"},
            "separate": {"value": 14, "unit": "origins"},
            "holds": False,
            **dict.fromkeys(("orders", "revenue", "margin"), MEASURED),
        }
    ],
    "calibrated": {
        "day": "1997-09-30",
        "base": "predictive",
        "reason": "at 13 weeks there are fewer than 5 past forecasts without overlap",
        "horizons": [
            {"label": "4 weeks", "steps": 28, **dict.fromkeys(("orders", "revenue", "margin"), WIDE)}
        ],
        "equity": WIDE | {"horizon": "4 weeks"},
        "stress": [{"share": 0.1, "low": 90.0, "high": 110.0, "unit": "USD", "level": "predictive"}],
        "estimates": [
            {
                "horizon": "4 weeks",
                "measure": "orders",
                "used": {"value": 6, "unit": "origins"},
                "estimable": True,
                "bias": WIDE,
                "scale": WIDE,
            },
        ],
    },
    "rules_that_win": 0,
}


class Artefacts:
    """Everything that a run hands to the report."""

    def __init__(self, draws: int = 200, *, converged: bool | None = True) -> None:
        self.summary, self.posterior = make_summary(), make_posterior(draws)
        self.assumptions = Assumptions(
            margin=np.full(len(self.summary), 0.3),
            margin_source=f"column {{x}} {HOSTILE}",
            annual_discount_rate=0.15,
            units_per_year=YEAR,
            horizon=np.inf,
            horizons={"3 months": YEAR / 4, "1.5 years": 1.5 * YEAR},
        )
        self.config = Config.model_validate(
            {
                "name": "test",
                "data": {"source": "/somewhere/log.csv", "segments": ["channel"]},
                "value": {"margin": 0.3, "annual_discount_rate": 0.15},
                "report": {"title": HOSTILE},
            }
        )
        valuation = value.Valuation(self.summary, self.posterior, self.assumptions, self.config.seed)
        self.equity = equity.build(valuation, survey=equity.survey(valuation))
        gate = Check(
            name="purchases: k-hat", passed=converged, sentence="k-hat is fine.", value=-0.2, threshold=0.7
        )
        self.checks, self.arrays = predictive_checks(self.summary, self.posterior, self.config.seed)
        self.checks = (gate, *self.checks)
        self.converged = converged
        self.table = self.build()

    def build(self) -> dict:
        return tables.build(
            self.summary,
            self.posterior,
            self.assumptions,
            self.equity,
            self.checks,
            self.config,
            {"clvmodels": "0.1.0", "numpy": "2"},
            {"converged": self.converged},
            self.arrays,
            None if self.posterior.is_point else BACKTEST,
        )

    def write(self, folder: Path) -> Path:
        files.write(
            folder,
            summary=self.summary,
            posterior=self.posterior,
            assumptions=self.assumptions,
            equity=self.equity,
            checks=self.checks,
            config=self.config,
            table=self.table,
            meta={"seconds": {"fit": 1.5}, "warnings": ["careful"]},
            arrays=self.arrays,
        )
        return folder


@pytest.fixture(scope="module")
def made() -> Artefacts:
    return Artefacts()


@pytest.fixture(scope="module")
def point() -> Artefacts:
    return Artefacts(1, converged=None)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    return made.write(tmp_path_factory.mktemp("run"))


class Page(HTMLParser):
    """Text of every element with a data-key, all tags, and balance of the tags."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self, source: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict]] = []
        self.open: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in self.VOID:
            return
        key = attributes.get("data-key")
        self.open.append((tag, key))
        if key:
            self.numbers.append((key, ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"{self.open[-1]} closed by {tag}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1][1]:
            key, before = self.numbers[-1]
            self.numbers[-1] = (key, before + data)


@pytest.fixture(scope="module")
def html(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def leaves(node, key=()):
    """Every scalar (or list of scalars) of the table with its path."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield from leaves(child, (*key, name))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, child in enumerate(node):
            yield from leaves(child, (*key, index))
    else:
        yield key, node


# --- the table -----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_draws(made):
    for level in ("expected", "latent", "predictive"):
        draws, block = made.equity.total(level), made.table["equity"]["existing"][level]
        expected = [
            draws.mean(),
            draws.std(ddof=1),
            *np.quantile(draws, [0.05, 0.95]),
            *np.quantile(draws, [0.25, 0.75]),
        ]
        found = [block["mean"], block["sd"], *block["interval_90"], *block["interval_50"]]
        np.testing.assert_allclose(found, expected, rtol=10.0 ** (1 - tables.SIGNIFICANT))
        assert block["unit"] == "USD"
        assert block["level"] == level


def test_every_key_is_documented_and_every_documented_key_exists(made):
    """docs/summary.md against a table with segments, holdout and all levels."""
    rows = re.findall(r"^\| (`.*?`) \|", DOCS.read_text(encoding="utf-8"), flags=re.M)
    documented = [key for row in rows for key in re.findall(r"`([^`]+)`", row)]
    statistic = {"unit", "level", "mean", "sd", "interval_50", "interval_90", "interval_95"}
    patterns = {}
    for key in documented[documented.index("schema") :]:
        body = re.escape(key.removesuffix(".*")).replace(r"\.", "/").replace(r"\[i\]", r"/\d+")
        body = re.sub(r"<\w+>", "[^/]+", body)
        tail = f"/({'|'.join(statistic)})" if key.endswith(".*") else "(/.*)?"
        patterns[key] = re.compile(body + tail)
    paths = ["/".join(str(part) for part in key) for key, _ in leaves(made.table)]
    undocumented = [p for p in paths if not any(pattern.fullmatch(p) for pattern in patterns.values())]
    assert undocumented == []
    missing = [key for key, pattern in patterns.items() if not any(pattern.fullmatch(p) for p in paths)]
    assert missing == []


def test_same_inputs_give_the_same_bytes_without_paths_or_numbers_that_are_none(made):
    again = tables.dumps(made.build())
    assert again == tables.dumps(made.table)
    assert "/somewhere" not in again
    assert "NaN" not in again
    assert "Infinity" not in again
    assert json.loads(again) == made.table


def test_config_fingerprint_ignores_where_things_lie_and_nothing_else(made):
    def fingerprint(**changes):
        return tables.build(
            made.summary,
            made.posterior,
            made.assumptions,
            made.equity,
            (),
            Config.model_validate(changes),
            {},
            {},
        )["fingerprints"]["config"]

    base = {"name": "t", "data": {"source": "a.csv"}, "value": {"margin": 0.3, "annual_discount_rate": 0.1}}
    moved = {**base, "data": {"source": "elsewhere/a.csv"}, "out": "there"}
    other = {**base, "value": {"margin": 0.31, "annual_discount_rate": 0.1}}
    assert fingerprint(**base) == fingerprint(**moved) != fingerprint(**other)


def test_segments_partition_the_total_and_ranks_are_probabilities(made):
    blocks = made.table["segments"]["channel"]
    whole = made.table["equity"]["existing"]["expected"]["mean"]
    precision = 10.0 ** (1 - tables.SIGNIFICANT)
    assert sum(b["equity"]["expected"]["mean"] for b in blocks) == pytest.approx(whole, rel=precision)
    assert sum(b["share"]["latent"]["mean"] for b in blocks) == pytest.approx(1, rel=precision)
    assert sum(b["rank"]["latent"]["highest_per_customer"] for b in blocks) == pytest.approx(1, rel=precision)
    ranks = np.array([b["rank"]["expected"]["probabilities"] for b in blocks])
    np.testing.assert_allclose(ranks.sum(axis=0), 1, rtol=precision)
    np.testing.assert_allclose(ranks.sum(axis=1), 1, rtol=precision)
    means = [b["equity"]["expected"]["mean"] for b in blocks]
    assert means == sorted(means, reverse=True)


def test_bands_sum_to_the_total(made):
    bands = made.table["bands"]
    whole = made.table["equity"]["existing"]["expected"]["mean"]
    # Bands are quadratures of their own: 1e-8 relative, the accuracy demanded of each.
    assert sum(b["equity"]["mean"] for b in bands) == pytest.approx(whole, rel=1e-8)


def test_finite_horizon_leaves_out_later_bands(made):
    short = replace(made.assumptions, horizon=4 * YEAR)
    result = equity.build(value.Valuation(made.summary, made.posterior, short, 1))
    table = tables.build(
        made.summary, made.posterior, short, result, (), made.config, {}, {"converged": True}
    )
    assert [band["label"] for band in table["bands"]] == ["0–1 years", "1–3 years", "3–5 years"]
    assert table["assumptions"]["undiscounted_is_infinite"]["value"] is None
    page.html(table, {})


def test_sentences_quote_the_table(made):
    worth, alive, where = made.table["sentences"]
    block = made.table["equity"]["existing"]["expected"]
    assert f"USD\u00a0{block['mean']:,.0f}" in worth
    assert f"{block['interval_90'][0]:,.0f} and {block['interval_90'][1]:,.0f} (level expected)" in worth
    assert f"{made.table['customers']['alive']['mean']:,.0f}" in alive
    assert "1.5 years" in alive
    assert f"{100 * made.table['beyond_window']['mean']:.0f}\u00a0%" in where


def test_all_disclosures_are_made(made):
    topics = {entry["topic"] for entry in made.table["disclosures"]}
    assert topics == {
        "Valuation date", "Scope", "What is valued", "Margin", "Discounting", "Horizon", "Data window",
        "Models and priors", "Extrapolation", "Intervals", "Not in any interval", "Active customers",
        "Independence", "Stability", "Accounting", "Words",
    }  # fmt: skip
    words = " ".join(entry["text"] for entry in made.table["disclosures"])
    assert "15\u00a0% a year" in words
    assert "before indirect cost and before tax" in words
    assert "by construction" not in words
    assert f"column {{x}} {HOSTILE}" in words  # braces of the data are text, not keys


# --- the page ------------------------------------------------------------------------------------


def test_page_shows_the_numbers_of_the_table(made, html, folder):
    stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert stored == made.table
    assert len(html.numbers) > 250
    for key, shown in html.numbers:
        number = text.lookup(stored, key)
        if number is None:
            assert shown == text.NONE
        elif isinstance(number, str):
            assert shown == number
        else:
            plain = shown.replace(",", "").replace("\u2212", "-")
            scale = 100 if plain.endswith("%") else 1
            written = plain.removesuffix("\u00a0%")
            decimals = len(written.partition(".")[2])
            # Rounded to the decimals shown: half a unit of the last place, and float noise.
            assert abs(float(written) - scale * number) <= 0.5 * 10.0**-decimals * (1 + 1e-9), key


def test_page_holds_all_that_is_promised(made, html):
    shown = {key for key, _ in html.numbers}
    needed = {
        "customers.total.value",
        "beyond_window.mean",
        "diagnostics.k_hat",
        "validation.holdout_spend.actual",
    }
    for level in made.table["levels"]:
        needed |= {f"equity.existing.{level}.{what}" for what in ("mean", "sd")}
        needed |= {f"equity.existing.{level}.interval_{p}.{end}" for p in (50, 90, 95) for end in (0, 1)}
        needed |= {f"orders.3 months.{level}.mean", f"revenue.1.5 years.{level}.interval_90.1"}
        needed |= {
            f"concentration.{name}.{level}.mean" for name in ("gini", "top_decile", "fixed_top_decile")
        }
    for j in range(3):
        needed |= {
            f"segments.channel.{j}.share.expected.mean",
            f"segments.channel.{j}.rank.latent.probabilities.0",
        }
    for family, parameters in made.table["posterior"].items():
        for name in parameters:
            needed |= {f"posterior.{family}.{name}.mean", f"maximum.{family}.parameters.{name}"}
            needed |= {f"posterior.{family}.{name}.{what}" for what in ("ess_bulk", "ess_tail", "r_hat")}
    assert needed - shown == set()
    for check in made.table["checks"]:
        assert check["sentence"] in html.text


def test_page_needs_no_network_and_no_script(folder, html):
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert not any(tag in ("script", "link", "img", "iframe", "object") for tag, _ in html.tags)
    for _, attributes in html.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.findall(r"url\((?!#)", source)
    assert "@import" not in source
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_text_from_data_is_escaped(folder, html):
    for path in [folder / "report.html", *folder.glob("figures/*.svg")]:
        assert "<script" not in path.read_text(encoding="utf-8")
    assert html.text.count(HOSTILE) >= 4  # title, margin source, segment, note
    assert "$x_1$ {currency}" in html.text


def test_ids_on_the_page_are_unique_per_figure_and_resolve(folder, html):
    targets = {attributes["id"] for _, attributes in html.tags if "id" in attributes}
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= targets


def test_unconverged_draws_are_named_in_every_section(made):
    table = {**made.table, "diagnostics": {**made.table["diagnostics"], "converged": False}}
    source = page.html(table, {})
    found = Page(source)
    sections = [
        attributes for tag, attributes in found.tags if tag == "section" and not attributes.get("class")
    ]
    assert len(sections) >= 6
    assert found.text.count("These numbers are not a valuation") == len(sections) + 1
    assert "@top-center { content: " in source
    assert "NOT converged" in found.text
    assert "not a valuation" not in page.html(made.table, {})


def test_single_parameter_vector_shows_no_interval(point, tmp_path):
    assert list(point.table["levels"]) == ["point"]
    for key, leaf in leaves(point.table):
        if str(key[-1]).startswith(("interval_", "inside_")) or key[-1] == "sd":
            assert leaf is None, key
    folder = point.write(tmp_path)
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not [tag for tag, attributes in found.tags if attributes.get("class") == "span"]
    assert not re.search(r"\d\s+(to|and)\s+[\d−]", found.text.split("Assumptions and disclosures")[0])
    assert "no interval" in found.text
    for path in folder.glob("figures/*.svg"):
        assert "interval" not in path.read_text(encoding="utf-8")
    assert files.render(folder).read_bytes()


def test_holdout_is_told_plainly(made):
    block = {**made.table["validation"]["holdout_orders"], "inside_90": False}
    missed = {**made.table["validation"], "holdout_orders": block}
    passed, _, words = page._holdout({**made.table, "validation": missed})
    assert passed is False
    assert words.startswith("The forecast of purchases missed")
    # Judged by level systematic, where there is one; the textbook interval stands beside it.
    spend = missed["holdout_spend"]
    wide = {
        "holdout_orders": {**block, "systematic": {**block, "level": "systematic", "inside_90": True}},
        "holdout_spend": {**spend, "systematic": {**spend, "level": "systematic", "inside_90": True}},
    }
    passed, _, words = page._holdout({**made.table, "validation": wide})
    assert passed is True
    assert words.endswith("Without shared shocks the forecast of purchases missed.")
    assert "90\u00a0% systematic {validation.holdout_orders.systematic.interval_90.0}" in words
    assert "90\u00a0% predictive {validation.holdout_orders.interval_90.0}" in words
    wide["holdout_spend"]["systematic"]["inside_90"] = False
    passed, _, words = page._holdout({**made.table, "validation": wide})
    assert passed is False
    assert words.startswith("The forecast of spend missed: the truth lies outside the 90\u00a0% systematic")
    assert page._holdout({**made.table, "validation": {}})[0] is None


# --- files ---------------------------------------------------------------------------------------


def test_folder_is_complete_and_the_manifest_vouches_for_it(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        "report.html", "summary.json", "summary.parquet", "customers.parquet", "equity.nc", "segments.csv",
        "partitions.csv", "risk.csv", "wake_up.csv", "validation.csv", "config.yaml", "manifest.json",
    }  # fmt: skip
    drawn = {path.stem for path in folder.glob("figures/*.svg")}
    assert drawn == {path.stem for path in folder.glob("figures/*.png")}
    assert drawn == {
        "equity", "bands", "lorenz", "position", "sensitivity", "segments_1", "histories", "iso_value",
        "frequency", "recency", "tracking", "spend",
        "spend_by_frequency", "draws",
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seconds"] == {"fit": 1.5}
    assert manifest["warnings"] == ["careful"]
    assert set(manifest["files"]) == names - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_hold_the_numbers_of_the_table(made, folder):
    found = {
        (row["segment"], row["metric"], row["level"], row["statistic"]): row["value"]
        for row in read_csv(folder / "segments.csv")
    }
    for block in made.table["segments"]["channel"]:
        assert int(found[block["label"], "customers", "", "value"]) == block["customers"]["value"]
        for metric in ("equity", "share", "per_customer"):
            for level, stats in block[metric].items():
                key = (block["label"], metric, level)
                assert float(found[*key, "mean"]) == stats["mean"]
                assert [float(found[*key, f"interval_95_{e}"]) for e in ("low", "high")] == stats[
                    "interval_95"
                ]
        assert (
            float(found[block["label"], "rank", "expected", "rank_1"])
            == block["rank"]["expected"]["probabilities"][0]
        )
    rows = {(row["check"], row["statistic"]): row for row in read_csv(folder / "validation.csv")}
    for check in made.table["checks"]:
        assert rows[check["name"], "passed"]["value"] == str(check["passed"]).lower()
        assert rows[check["name"], "passed"]["sentence"] == check["sentence"]
    assert (
        float(rows["holdout_spend", "actual"]["value"]) == made.table["validation"]["holdout_spend"]["actual"]
    )


def test_csv_files_of_the_survey_hold_the_numbers_of_the_table(made, folder):
    found = {
        (row["column"], row["segment"], row["metric"], row["level"], row["statistic"]): row["value"]
        for row in read_csv(folder / "partitions.csv")
    }
    for name, parts in made.table["partitions"].items():
        for part in parts:
            for level, block in part["equity"].items():
                assert float(found[name, part["label"], "equity", level, "mean"]) == block["mean"]
    rows = {(r["metric"], r["group"], r["level"], r["statistic"]): r for r in read_csv(folder / "risk.csv")}
    for entry in made.table["sensitivities"]:
        found_change = float(rows["change", entry["name"], "expected", "interval_90_low"]["value"])
        assert found_change == entry["change"]["interval_90"][0]
    for entry in made.table["variance"]:
        row = rows["variance", entry["source"], "predictive", "share"]
        assert float(row["value"]) == entry["share"]
        assert row["unit"] == "share"
    assert (
        float(rows["tail", "", "predictive", "quantile"]["value"]) == made.table["risk"]["tail"]["quantile"]
    )
    listed = read_csv(folder / "wake_up.csv")
    assert [row["customer"] for row in listed[:10]] == [e["customer"] for e in made.table["wake_up"]]
    assert float(listed[0]["in_doubt"]) == made.table["wake_up"][0]["in_doubt"]["value"]


def test_customers_file_sums_to_the_equity(made, folder):
    import pyarrow.parquet as pq

    customers = pq.read_table(folder / "customers.parquet")
    meta = json.loads(customers.schema.metadata[b"clvmodels"])
    assert meta["level"] == "expected"
    assert meta["currency"] == "USD"
    whole = made.table["equity"]["existing"]["expected"]["mean"]
    assert np.sum(customers["value_mean"]) == pytest.approx(whole, rel=1e-9)


def test_draws_come_back_as_they_were(made, folder):
    import xarray as xr

    run = files.load(folder)
    for role in ("purchases", "spend"):
        before, after = getattr(made.posterior, role), getattr(run["posterior"], role)
        np.testing.assert_array_equal(after.draws, before.draws)
        assert after.parameters == before.parameters
        assert after.sampler == before.sampler
    xr.testing.assert_equal(run["equity"].data, made.equity.data)
    xr.testing.assert_equal(run["arrays"], made.arrays)
    assert run["table"] == made.table
    assert run["config"]["name"] == "test"


def test_page_is_rendered_again_without_sampler_or_engine(folder, tmp_path):
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (copy / "report.html").unlink()
    for path in copy.glob("figures/*"):
        path.unlink()
    script = (
        "import sys, pathlib, json, clvmodels.report as report\n"
        "report.render(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps([m for m in ('pymc', 'pytensor', 'nutpie', 'ibis', 'duckdb') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    for path, before in kept.items():
        assert path.read_bytes() == before, path.name


@pytest.mark.parametrize("name", ["summary.json", "equity.nc", "manifest.json"])
def test_incomplete_folder_is_refused(folder, tmp_path, name):
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        files.render(copy)


# --- figures -------------------------------------------------------------------------------------


def test_figures_are_the_same_to_the_byte_and_leave_no_state(made):
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = (figures.equity_density(made.equity) for _ in range(2))
    assert figures.svg(first) == figures.svg(second)
    assert figures.png(first) == figures.png(second)
    assert dict(matplotlib.rcParams) == before
    assert "date" not in figures.svg(first).lower()


def test_every_axis_has_a_title(made):
    for name, (figure, caption) in figures.draw_all(
        made.summary, made.posterior, made.equity, made.table, made.arrays
    ).items():
        assert caption
        axes = figure.axes
        lowest = [ax for ax in axes if ax.get_subplotspec().is_last_row()]
        if name != "draws":  # a column per parameter, named above it
            assert all(ax.get_xlabel() for ax in lowest), name
            assert any(
                ax.get_ylabel() or not ax.get_yticks().size or name.startswith("segments") for ax in axes
            ), name


def test_figure_draws_where_it_is_asked_to(made):
    from matplotlib.figure import Figure

    host = Figure()
    ax = host.subplots()
    assert figures.equity_density(made.equity, ax=ax) is host
    assert ax.get_xlabel() == "Equity of the existing customers (USD)"


def test_density_has_unit_mass_and_the_moments_of_the_draws():
    draws = np.random.default_rng(3).gamma(9, 2, 4000)
    grid = np.linspace(-10, 80, 1000)
    curve = figures._density(draws, grid)
    step = grid[1] - grid[0]
    # Histogram and kernel are normalised; only the mass beyond 4 bandwidths (6e-5) is missing.
    assert curve.sum() * step == pytest.approx(1, abs=1e-4)
    assert (curve * grid).sum() * step == pytest.approx(draws.mean(), abs=step)


def test_iso_value_curves_bend_back(made):
    """At half the age, value first rises and then falls with frequency; near the end it rises."""
    s = histories.surfaces(made.summary, made.posterior, made.table["assumptions"])
    half = np.abs(s["recency"] - 0.5 * s["age"]).argmin()
    peak = s["value"][:, half].argmax()
    assert 0 < peak < len(s["frequency"]) - 1
    assert (np.diff(s["value"][peak:, half]) < 0).all()
    assert (np.diff(s["value"][:, -1]) > 0).all()
    recency, frequency = figures._ridge(s["recency"], s["frequency"], s["value"])
    assert (np.diff(frequency) > 0).all()
    assert len(recency) > 10


def test_histories_agree_with_the_valuation(made):
    """The zero class of the longest age is worth what the equity says of such a customer."""
    zero = made.table["histories"][0]
    customers = made.equity.customers.to_pandas()
    oldest = customers[(customers.frequency == 0) & (customers["T"] == customers["T"].max())]
    if oldest.empty:
        pytest.fail("the fixture needs a customer of the longest age without a repeat purchase")
    # Table interpolation of residual values is good to 1e-11; ten digits are kept.
    assert zero["p_alive"]["mean"] == 1
    np.testing.assert_allclose(oldest["value_mean"], zero["value"]["mean"], rtol=1e-8)


def test_chains_and_a_family_with_fixed_parameters(made):
    """Four chains of NUTS for purchases beside one given vector for spend."""
    purchases = made.posterior.purchases
    sizes = dict.fromkeys(purchases.parameters, 900.0)
    chains = replace(
        purchases,
        draws=purchases.draws.reshape(4, 50, -1),
        sampler="nuts",
        diagnostics={
            "ess_bulk": sizes,
            "ess_tail": sizes,
            "r_hat": dict.fromkeys(sizes, 1.003),
            "divergences": 0,
        },
    )
    fixed = replace(
        made.posterior.spend,
        draws=make_posterior(1).spend.draws,
        sampler="fixed",
        maximum={},
        diagnostics={},
        priors={},
    )
    mixed = replace(made.posterior, purchases=chains, spend=fixed)
    found, arrays = predictive_checks(made.summary, mixed, 1)
    table = tables.build(
        made.summary,
        mixed,
        made.assumptions,
        made.equity,
        found,
        made.config,
        {},
        {"converged": True},
        arrays,
    )
    assert table["diagnostics"]["r_hat"] == 1.003
    assert table["posterior"]["gamma_gamma"]["p"]["sd"] is None
    drawn = figures.draw_all(made.summary, mixed, made.equity, table, arrays)
    assert len(drawn["draws"][0].axes) == 2 * len(purchases.parameters)
    shown = Page(page.html(table, {name: (figures.svg(f), caption) for name, (f, caption) in drawn.items()}))
    assert "largest R-hat 1.003" in shown.text
    assert "parameters fixed, not estimated" in shown.text


def test_labels_that_no_font_or_file_expects(made):
    labels = ("会员\n渠道", "nul\x00 and bell\x07", "x" * 300)
    segment = replace(made.summary.segments["channel"], labels=labels)
    summary = replace(made.summary, segments={"channel": segment})
    result = equity.build(value.Valuation(summary, made.posterior, made.assumptions, 1))
    table = tables.build(
        summary, made.posterior, made.assumptions, result, (), made.config, {}, {"converged": True}
    )
    drawing = figures.svg(figures.segment_shares(table, "channel"))
    assert "会员 渠道" in drawing
    assert not re.search(r"[\x00-\x08]", drawing)
    assert "x" * 100 not in drawing


def test_notebook_shows_a_figure(made):
    assert figures.equity_density(made.equity)._repr_png_().startswith(b"\x89PNG")


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "style", "size", "shown"),
    [
        (73823.6, "money", None, "73,824"),
        (999.4, "money", 73823.6, "999"),
        (31.4, "money", None, "31.40"),
        (-1234.5, "money", None, "\u22121,234"),
        (-0.2, "money", 5000, "0"),
        (0.0951, "percent", None, "9.5\u00a0%"),
        (0.5214, "percent", None, "52\u00a0%"),
        (1686.4, "count", None, "1,686"),
        (12.34, "count", None, "12.3"),
        (12.0, "count", None, "12"),
        (0.2425945, "number", None, "0.2426"),
        (-9582.429, "number", None, "\u22129,582"),
        (1.5e-9, "number", None, "1.500e-09"),
        (0.0, "number", None, "0"),
        (True, None, None, "yes"),
        (None, "money", None, "–"),
        (float("nan"), "money", None, "–"),
    ],
)
def test_numbers_are_written(number, style, size, shown):
    assert text.write(number, style or "number", size) == shown


def test_keys_are_looked_up():
    table = {
        "currency": "EUR",
        "a": {"1.5 years": {"unit": "EUR", "mean": 2000.0, "interval_90": [1.0, 2.0]}},
    }
    assert text.show(table, "a.1.5 years.interval_90.1") == "2"
    assert text.fill("x {a.1.5 years.mean} {currency}", table) == "x 2,000 EUR"
    for key in ("a.b", "a.1.5 years.interval_90.2", "a.1.5", "currency.x"):
        with pytest.raises(KeyError):
            text.lookup(table, key)


@pytest.mark.parametrize(
    ("amount", "unit", "shown"),
    [
        (39.0, "week", "39 weeks"),
        (38.857, "week", "39 weeks"),
        (1.0, "year", "1 year"),
        (1.5, "year", "1.5 years"),
        (float("inf"), "week", "infinite"),
    ],
)
def test_durations_are_written(amount, unit, shown):
    assert text.duration(amount, unit) == shown.replace(" ", "\u00a0")
