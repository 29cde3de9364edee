"""Tables are Markdown, and nothing in a cell is cut or interpreted."""

from thinktwice.tables import format_table


def test_rows_become_aligned_markdown():
    table = format_table(('name', 'n'), [('a', '10'), ('long', '2')])
    assert table.splitlines() == [
        '| name | n  |',
        '|------|----|',
        '| a    | 10 |',
        '| long | 2  |',
    ]


def test_cells_are_neither_cut_nor_interpreted():
    cells = ('x' * 300, '[red] [3, 4] :smile: 1/2')
    row = format_table(('', ''), [cells]).splitlines()[-1]
    assert [cell.strip() for cell in row.strip('|').split('|')] == list(cells)
