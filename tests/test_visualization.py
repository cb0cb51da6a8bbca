import matplotlib.pyplot as plt
import pytest

from keras_gumbel.sparsity import SparsityReport
from keras_gumbel.sparsity import SparsityRow
from keras_gumbel.visualization import plot_history
from keras_gumbel.visualization import plot_sparsity


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    def show():
        raise AssertionError("a plot must not show itself")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def _report():
    rows = (
        SparsityRow("first/kernel", 100, 5, 5.5, 3),
        SparsityRow("second/kernel", 50, 10, 9.5, 2),
    )
    return SparsityReport(rows, 15, {})


def test_plot_sparsity_draws_a_bar_for_each_row():
    ax = plot_sparsity(_report())

    assert [bar.get_width() for bar in ax.patches] == [0.05, 0.2]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["first/kernel", "second/kernel"]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["5 of 100", "10 of 50"]


def test_plot_sparsity_draws_the_density_of_the_model():
    ax = plot_sparsity(_report())

    (line,) = ax.get_lines()

    assert list(line.get_xdata()) == [0.1, 0.1]


def test_plot_history_draws_the_keys_over_the_epochs():
    history = {"density": [0.5, 0.25], "undecided": [0.9, 0.1], "loss": [3, 2]}

    ax = plot_history(history, ["density", "undecided"])

    lines = {line.get_label(): line for line in ax.get_lines()}
    assert sorted(lines) == ["density", "undecided"]
    assert list(lines["density"].get_xdata()) == [1, 2]
    assert list(lines["undecided"].get_ydata()) == [0.9, 0.1]
    styles = {line.get_linestyle() for line in lines.values()}
    assert len(styles) == 2


@pytest.mark.parametrize(
    "plot",
    [
        lambda ax: plot_sparsity(_report(), ax=ax),
        lambda ax: plot_history({"a": [0.5]}, ["a"], ax=ax),
    ],
)
def test_plot_draws_on_the_axes_it_is_given(plot):
    _, (_, ax) = plt.subplots(1, 2)

    assert plot(ax) is ax
