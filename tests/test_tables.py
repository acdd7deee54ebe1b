"""Tables for a terminal and as Markdown."""

from owt_mpi.tables import Table, rate, render, share

TABLE = Table("Title", ("name", "ms"), [["conv", "12.5"], ["a", "3"]], ["a note"])


def test_a_terminal_gets_columns_in_line():
    assert render(TABLE, markdown=False) == "Title\n  name    ms\n  conv  12.5\n  a        3\n  a note\n"


def test_markdown_is_a_section_with_the_note_apart():
    expected = "### Title\n\n| name | ms |\n|---|---|\n| conv | 12.5 |\n| a | 3 |\n\na note\n"
    assert render(TABLE, markdown=True) == expected


def test_what_is_not_known_leaves_its_cell_empty():
    assert (rate(None, 2.0), rate(4_000_000_000, 2.0), rate(1, 0.0)) == ("", "2.0", "")
    assert (share(None, 2.0), share(0.5, 2.0), share(1.0, 0.0)) == ("", "25%", "")


def test_cells_do_not_move_the_cursor():
    odd = Table("Title", ("name",), [["a\x1b[2J\nb"]])
    assert render(odd, markdown=False) == "Title\n  name\n  a\\x1b[2J\\nb\n"
