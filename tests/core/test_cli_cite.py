"""``flowzoo cite``: the entries of the plugins named, each once."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import flowzoo
from fake_site import Site
from flowzoo import registry
from flowzoo.cli import main


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,]+),", text, flags=re.MULTILINE)


def test_in_the_order_asked_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "maf", "vq", "nflows-maf", "helix", "realnvp", "maf"]) == 0
    out, err = capsys.readouterr()
    assert keys(out) == ["papamakarios2017masked", "sidheekh2022vqflows", "dinh2017density"]
    assert err == "" and out.count("@") == 3 and "\n}\n\n@" in out


def test_a_metric_has_the_works_of_its_distances(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "two-sample"]) == 0
    out, err = capsys.readouterr()
    assert keys(out) == ["bonneel2015sliced", "szekely2013energy"] and err == ""


@pytest.mark.parametrize(
    "name", ["vq", "mixture:vq", "flowzoo:vq", "Flowzoo:vq", "mixture:flowzoo:vq"]
)
def test_ways_to_name_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", name]) == 0
    assert keys(capsys.readouterr().out) == ["sidheekh2022vqflows"]


def test_flowzoo_itself_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "--self", "kde"]) == 0
    out = capsys.readouterr().out
    assert keys(out) == ["parzen1962estimation", "flowzoo"] and flowzoo.__version__ in out
    assert main(["cite", "--self"]) == 0
    assert keys(capsys.readouterr().out) == ["flowzoo"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "gmm", "--self", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["name"], row["key"]) for row in rows] == [
        ("mixture", "gmm", "dempster1977maximum"),
        ("", "flowzoo", "flowzoo"),
    ]
    assert rows[0]["bibtex"].startswith("@article{") and rows[0]["bibtex"].endswith("}")


def test_none_to_give_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "digits", "kmeans"]) == 0
    out, err = capsys.readouterr()
    assert keys(out) == ["lloyd1982least"]
    assert err == "flowzoo: warning: task 'digits' gives no BibTeX entry\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vqq"], "did you mean 'vq'"),
        (["realnvp", "mixture:vqq"], "did you mean 'vq'"),
        (["nobody:vq"], "unknown plugin 'nobody:vq'"),
        ([], "expected at least one"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.split()) and out == "" and "Traceback" not in err


BIBTEX = "@misc{{{key},\n  title = {{{title}}}\n}}"


def bib(key: str, title: str) -> str:
    return f"bibtex={BIBTEX.format(key=key, title=title)!r}, paper='A paper'"


def test_a_name_of_several_kinds_means_all(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("other", "twin", kind="task", extra=bib("of-task", "One"))
    site.plugin("another", "twin", kind="mixture", extra=bib("of-mixture", "Two"))
    registry.refresh()
    assert main(["cite", "twin"]) == 0
    out, err = capsys.readouterr()
    assert keys(out) == ["of-mixture", "of-task"]
    assert "'twin' is a mixture and a task; mixture:twin names one of them" in err
    assert main(["cite", "task:twin"]) == 0
    out, err = capsys.readouterr()
    assert keys(out) == ["of-task"] and err == ""


def test_one_key_for_two_works_is_said(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("first", "a-one", extra=bib("same", "One {Work}"))
    site.plugin("second", "b-two", extra=bib("same", "one work"))
    site.plugin("third", "c-three", extra=bib("same", "Something else"))
    registry.refresh()
    assert main(["cite", "a-one", "b-two", "c-three"]) == 0
    out, err = capsys.readouterr()
    assert out.count("@misc{same,") == 1 and "One {Work}" in out
    assert err.count("warning") == 1 and "task 'c-three' means another work by 'same'" in err


def test_several_entries_of_one_plugin(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    both = BIBTEX.format(key="k1", title="One") + "\n" + BIBTEX.format(key="k2", title="Two")
    site.plugin("pair", "pair", extra=f"bibtex={both!r}")
    registry.refresh()
    assert main(["cite", "pair"]) == 0
    assert keys(capsys.readouterr().out) == ["k1", "k2"]


def test_a_paper_without_bibtex_is_shown(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.plugin("plain", "plain", extra="paper='Somebody (1999), Something'")
    registry.refresh()
    assert main(["cite", "plain"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "its paper: Somebody (1999), Something" in err


def test_one_that_cannot_be_read(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.entry_points("[flowzoo.tasks]\nodd = fake_not_there:SPEC\n", "odd")
    registry.refresh()
    assert main(["cite", "odd"]) == 1
    err = capsys.readouterr().err
    assert "task 'odd' is broken" in err and len(err.splitlines()) == 1


# --- the built-in entries ------------------------------------------------------------------------


def test_built_in_entries_agree_with_their_papers() -> None:
    """Well-formed, the year and the first author of the paper, one work for each key."""
    works: dict[str, tuple[str, str]] = {}
    seen = 0
    for spec in registry.specs():
        if not spec.bibtex:
            assert not spec.paper, f"{spec.kind} {spec.name}: a paper without BibTeX"
            continue
        text = spec.bibtex
        seen += 1
        assert text.count("{") == text.count("}"), spec.name
        key = keys(text)[0]  # the first is the work that ``paper`` names
        text = text[: text.find("\n@")] if "\n@" in text else text
        fields = {
            name.lower(): re.sub(r"[{}\s]+", " ", value).strip()
            for name, value in re.findall(
                r"^\s*(\w+)\s*=\s*\{(.*?)\},?$", text, flags=re.MULTILINE | re.DOTALL
            )
        }
        assert {"title", "author", "year"} <= set(fields), spec.name
        assert {"journal", "booktitle", "publisher", "howpublished"} & set(fields), spec.name
        year = int(fields["year"])
        assert fields["year"] in key, spec.name
        # a paper may be dated by its preprint
        assert {str(year), str(year - 1)} & set(re.findall(r"\d{4}", spec.paper)), spec.name
        surname = fields["author"].partition(",")[0].split()[-1]
        assert surname in spec.paper and surname.lower() in key, spec.name
        work = (re.sub(r"\W+", "", fields["title"]).lower(), fields["year"])
        assert works.setdefault(key, work) == work, spec.name
    assert seen >= 15


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom flowzoo.cli import main\n"
        "code = main(['cite', 'vq', 'helix', '--self'])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
