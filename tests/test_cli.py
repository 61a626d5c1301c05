"""The commands: what they print and where, their exit statuses, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from clvmodels import cli, run
from clvmodels.config import load
from clvmodels.models import registry

FIXED = {
    "purchases": {"family": "bg_nbd", "fixed": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}},
    "spend": {"family": "gamma_gamma", "fixed": {"p": 6.25, "q": 3.74, "gamma": 15.44}},
}
CONFIG = {
    "name": "shop",
    "data": {
        "source": "shop.csv",
        "columns": {"customer": "customer_id", "date": "date", "amount": "amount"},
        "segments": ["country"],
        "observation_end": "2024-10-31",
    },
    "models": FIXED,
    "value": {"margin": 0.3, "annual_discount_rate": 0.15},
}


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A folder with a log of 80 customers and its config; no model has to be fitted."""
    rng = np.random.default_rng(5)
    rows = [
        (
            f"c{customer}",
            np.datetime64("2024-01-01") + int(start + day),
            f"{amount:.2f}",
            "FR" if customer % 3 else "DE",
        )
        for customer, start in enumerate(rng.integers(0, 120, 80))
        for day, amount in zip(
            np.r_[0, rng.integers(1, 240, rng.poisson(2))], rng.gamma(4, 10, 20), strict=False
        )
    ]
    lines = ["customer_id,date,amount,country", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line in this process; returns (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clvmodels", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return call


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(result: tuple[int, str, str], expected: str) -> None:
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize("name", ["check", "fit"])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("value.discount_rate=0.1", "did you mean annual_discount_rate?"),
        ("value.horizon=12", 'write "12 months"'),
        ("value.annual_discount_rate=-0.1", "15 % is 0.15"),
        ("value.margin=30", "30 % is 0.3"),
        ("value.margin=", "value.margin is missing"),
        ("data.source=nowhere.csv", "nowhere.csv"),
        ("data.segments=[land]", "land"),
        ("value.margin={by: country, values: {FR: 0.3}}", "DE"),
        ("models.purchases.fixed={r: 1}", "models.purchases.fixed"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(shop, command, name, override, expected):
    before = files(shop)
    refused(command(name, "shop.yaml", "--set", override), expected)
    assert files(shop) == before


def test_bad_input_in_a_process_of_its_own(shop):
    (shop / "shop.yaml").write_bytes("name: café\n".encode("latin-1"))
    before = files(shop)
    done = subprocess.run(
        [sys.executable, "-m", "clvmodels", "fit", "shop.yaml"], capture_output=True, text=True, cwd=shop
    )
    refused((done.returncode, done.stdout, done.stderr), "shop.yaml is not UTF-8 text")
    assert files(shop) == before


def test_an_output_folder_that_exists_is_left_alone(shop, command):
    (shop / "runs" / "shop").mkdir(parents=True)
    (shop / "runs" / "shop" / "mine.txt").write_text("mine")
    before = files(shop)
    refused(command("fit", "shop.yaml"), "runs/shop exists")
    refused(command("fit", "shop.yaml", "--out", "shop.csv"), "shop.csv")
    refused(command("fit", "shop.yaml", "--out", "shop.csv", "--overwrite"), "shop.csv")
    assert files(shop) == before


def test_a_bug_keeps_its_traceback(shop, command, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(run, "check", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("check", "shop.yaml")


def test_interrupt(shop, command, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "fit", interrupted)
    before = files(shop)
    status, out, err = command("fit", "shop.yaml")
    assert (status, out) == (130, "")
    assert "Traceback" not in err
    assert files(shop) == before


@pytest.mark.parametrize("arguments", [(), ("fit", "--help"), ("families", "-h"), ("--version",)])
def test_help_goes_to_stdout(command, arguments):
    status, out, err = command(*arguments)
    assert out
    assert err == ""
    assert status in (0, 2)


def test_unknown_command_and_option(command):
    assert command("fitt")[0] == 2
    assert command("fit", "c.yaml", "--fast")[0] == 2


def test_families(command, tmp_path):
    status, out, err = command("families", "--json", "--out", str(tmp_path / "f.json"))
    listing = json.loads(out)
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "f.json").read_text()) == listing
    assert [entry["name"] for entry in listing] == list(registry.names())
    for entry in listing:
        family = registry.get(entry["name"])
        assert [p["name"] for p in entry["parameters"]] == list(family.parameter_names)
        assert {c["name"] for c in entry["coordinates"]} == set(family.coordinate_names)
        assert all(c["prior"]["dist"] for c in entry["coordinates"])
        assert entry["references"]
    refused(command("families", "--out", str(tmp_path / "f.json")), "f.json exists")
    status, out, _ = command("families")
    assert all(f"{name}:" in out for name in registry.names())
    assert command("families", "--quiet")[1] == ""


def test_check(shop, command):
    before = files(shop)
    status, out, err = command("check", "shop.yaml", "--json")
    described = json.loads(out)
    assert (status, err) == (0, "")
    assert described["customers"] == 80
    assert described["observation_end"] == "2024-10-31"
    assert described["segments"] == {"country": 2}
    assert described["ledger"]["rows_read"] == len((shop / "shop.csv").read_text().splitlines()) - 1
    status, out, err = command("check", "shop.yaml", "--set", "data.time_unit=day")
    assert (status, err) == (0, "")
    assert "Rows read" in out
    assert "in days" in out
    assert command("check", "shop.yaml", "--quiet") == (0, "", "")
    assert files(shop) == before
    command("check", "shop.yaml", "--out", "summary.parquet")
    assert set(files(shop)) - set(before) == {"summary.parquet"}


def test_fit_report_and_reading_back(shop, command):
    status, out, err = command("fit", "shop.yaml", "--seed", "3", "--set", "report.title=A <b>shop</b>")
    assert (status, err) == (0, "")
    folder = shop / "runs" / "shop"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["seed"], summary["title"]) == (3, "A <b>shop</b>")
    assert "checks passed" in out
    assert out.rstrip().endswith("report: runs/shop/report.html")
    assert all(level in out for level in summary["equity"]["existing"])
    assert os.listdir(shop / "runs") == ["shop"]

    status, out, err = command("fit", "shop.yaml", "--seed", "4", "--json", "--overwrite")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document.pop("path") == "runs/shop"
    assert document == json.loads((folder / "summary.json").read_text())
    assert (document["seed"], document["title"]) == (4, "Customer equity")
    assert os.listdir(shop / "runs") == ["shop"]

    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    status, out, err = command("report", "runs/shop", "--json", "--out", "copy.html")
    assert (status, json.loads(out), err) == (0, {"report": "copy.html"}, "")
    assert (folder / "report.html").read_bytes() == (shop / "copy.html").read_bytes() == page
    refused(command("report", "runs/shop", "--out", "copy.html"), "copy.html exists")
    refused(command("report", "runs/shop", "--set", "value.margin=0.6"), "--out")
    refused(command("report", "runs/shop", "--out", "b", "--set", "fit.draws=500"), "give it to 'fit'")
    refused(command("report", "shop.csv"), "shop.csv")

    status, out, err = command("report", "runs/shop", "--out", "runs/double", "--set", "value.margin=0.6")
    assert (status, out, err) == (0, "report: runs/double/report.html\n", "")
    double = json.loads((shop / "runs" / "double" / "summary.json").read_text())
    # Ten significant digits are written.
    assert double["equity"]["existing"]["point"]["mean"] == pytest.approx(
        2 * document["equity"]["existing"]["point"]["mean"], rel=1e-9
    )
    assert command("check", "runs/double/config.yaml", "--quiet") == (0, "", "")

    code = (
        "import sys, clvmodels as clv\n"
        "found = clv.load('runs/shop')\n"
        "found.equity.summary(), found.customers, found.posterior\n"
        "print([m for m in ('pymc', 'pytensor', 'nutpie', 'ibis', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=shop)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_init_writes_a_config_that_checks(shop, command):
    log = shop / "log of orders.csv"
    log.write_bytes((shop / "shop.csv").read_bytes())
    before = files(shop)
    status, out, err = command("init", "log of orders.csv", "--seed", "8", "--set", "value.margin=0.45")
    assert (status, out, err) == (0, "config: log_of_orders.yaml\n", "")
    assert set(files(shop)) - set(before) == {"log_of_orders.yaml"}
    text = (shop / "log_of_orders.yaml").read_text()
    config = load("log_of_orders.yaml")
    assert config.data.columns.model_dump() == CONFIG["data"]["columns"]
    assert (config.seed, config.value.margin) == (8, 0.45)
    assert "country" in text
    assert "ASSUMPTION" in text
    status, out, err = command("check", "log_of_orders.yaml", "--json")
    assert json.loads(out)["customers"] == 80
    before = files(shop)
    refused(command("init", "log of orders.csv"), "log_of_orders.yaml exists")
    refused(command("init", "nowhere.csv"), "nowhere.csv")
    refused(command("init", "shop.csv", "--out", "b.yaml", "--set", "value.margn=1"), "did you mean margin?")
    assert files(shop) == before
    (shop / "configs").mkdir()
    document = json.loads(command("init", "shop.csv", "--json", "--out", "configs/a.yaml")[1])
    assert document["config"] == "configs/a.yaml"
    assert document["content"]["data"]["source"] == "../shop.csv"
    assert command("check", "configs/a.yaml", "--quiet") == (0, "", "")
