"""The report: one file that loads nothing, with every string escaped."""

import dataclasses
import html.parser
import math
import re
import struct

import matplotlib
import numpy as np
import pytest

from jaxkd.evaluation import Comparison, Entry, Reliability, Statistic, Timing, _plots, write_report

EVIL = "<script>alert('$x$ & \"y\"')</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


def entry(name, accuracy, gains=None, seeds=1, classes=3):
    def over(mean):
        return Statistic(mean, 0.01 if seeds > 1 else None, seeds)

    return Entry(
        name=name,
        accuracy=over(accuracy),
        retention=over(accuracy / 0.9),
        gains=gains or {},
        agreement=over(0.8),
        kl_to_teacher=over(0.2),
        calibration_error=over(0.05),
        negative_log_likelihood=over(0.4),
        parameters=100,
        compression=5.0,
        flops=None,
        memory=2000,
        timings=(Timing(1, 1e-4, 2e-4, 2.0), Timing(64, 2e-3, 3e-3, 4.0)),
        reliability=Reliability((0.0, 0.5, 1.0), (0, 7), (math.nan, 0.7), (math.nan, 0.8)),
        per_class_agreement=(0.5, math.nan, *[1.0] * (classes - 2)),
    )


def comparison(name="distilled", classes=3):
    students = (
        entry("alone", 0.6, seeds=3, classes=classes),
        entry(name, 0.8, {"alone": 0.2}, seeds=3, classes=classes),
        entry("another", 0.7, seeds=3, classes=classes),
    )
    return Comparison(f"digits: {name}", "cpu", 350, entry("teacher", 0.9, classes=classes), students)


CURVES = {
    "alone": (
        np.arange(4),
        {"loss": np.ones((4, 3)), "accuracy": np.array([[0.1] * 3, [np.nan] * 3, [0.5] * 3, [0.6] * 3])},
    ),
    EVIL: (np.arange(2), {"loss": [2.0, 1.0]}),
}


class Page(html.parser.HTMLParser):
    """Checks that elements close in order; collects elements, ids, and what is referred to."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.ids, self.references, self.styles, self._open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if self._open and self._open[-1] == "style":
            self.styles.append(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "new"
    config = {"student": {"name": EVIL, "steps": 3}, "alpha": 0.9}
    path = write_report(folder / "report.html", comparison(EVIL), curves=CURVES, config=config, versions={"jax": "1<2"})
    return path, path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_loads_nothing(written):
    page = Page(written[1])
    assert page.elements.count("svg") == 5
    assert len(page.ids) == len(set(page.ids))
    # Everything that is referred to is in the page.
    assert page.references
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.elements)
    assert "@import" not in "".join(page.styles)
    assert "url(" not in "".join(page.styles)
    assert "://" not in written[1]


def test_strings_are_escaped(written):
    text = written[1]
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 5  # title, heading, verdict, table, configuration
    assert "1&lt;2" in text
    assert "student.name" in text
    assert "student.steps" in text


def test_page_says_what_the_comparison_says(written):
    text, expected = written[1], comparison(EVIL)
    assert html.escape(expected.verdict()) in text
    for name, cells in expected.rows():
        for cell in [name, *cells]:
            assert html.escape(cell) in text
    for heading in ("Learning curves", "Reliability", "Accuracy against size", "Agreement with the teacher by class"):
        assert f"<h2>{heading}</h2>" in text
    assert "prefers-color-scheme: dark" in text


def test_more_than_two_students_have_a_plot_in_the_order_of_their_training():
    many = comparison("generation 2")
    assert "students" not in _plots.draw(dataclasses.replace(many, students=many.students[:2]), {})
    with matplotlib.rc_context(_plots.STYLE):
        (axis,) = _plots.draw(many, {})["students"].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == [entry.name for entry in many.students]
    heights = [container.lines[0].get_ydata()[0] for container in axis.containers]
    assert heights == [entry.accuracy.mean for entry in many.students]


def test_plots_are_png_files_beside_it(written):
    plots = sorted((written[0].parent / "plots").iterdir())
    assert [plot.stem for plot in plots] == [
        "accuracy_against_size",
        "learning_curves",
        "per_class_agreement",
        "reliability",
        "students",
    ]
    for plot in plots:
        content = plot.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width > 1000
        assert height > 300


def test_same_report_same_bytes_and_replaced_in_place(tmp_path):
    one = write_report(tmp_path / "report.html", comparison(classes=30)).read_text(encoding="utf-8")
    two = write_report(tmp_path / "report.html", comparison(classes=30)).read_text(encoding="utf-8")
    assert one == two
    assert Page(one).elements.count("svg") == 4  # no curves
    assert "Configuration" not in one


def test_one_seed_and_a_teacher_without_parameters(tmp_path):
    teacher = dataclasses.replace(entry("cached", 0.9), parameters=0, compression=None)
    student = dataclasses.replace(entry("student", 0.8), compression=None)
    one = Comparison("", "cpu", 10, teacher, (student,))
    text = write_report(tmp_path / "report.html", one).read_text(encoding="utf-8")
    assert "Students and their teacher" in text
    assert "±" not in text.split("<h2>Reliability")[0].split("<svg")[0]


def test_curves_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="curves of 'alone': 'loss' has 2 values for 3 steps"):
        write_report(tmp_path / "report.html", comparison(), curves={"alone": ([1, 2, 3], {"loss": [1.0, 2.0]})})


def test_no_global_state(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(tmp_path / "report.html", comparison())
    assert dict(matplotlib.rcParams) == before
